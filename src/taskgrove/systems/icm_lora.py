"""icm_lora: one generator in place of a LoRA a task (see sharing/weight_generator).

On your own data: `sharing.weight_codec`, `sharing.weight_generator.fit` and
`composing.hidden_task_vector`, from Python.

The experiment: sixteen tasks, halves of the classes of Debian facets, on MiniLM's upper two layers
(see debian/lora_zoo); 30 checkpoints each. A generator of six blocks learns all of them. How far a
generated LoRA brings the frozen model towards the task's own is the recovered gain,

    100 (sum acc(arm) - sum acc(none)) / (sum acc(original) - sum acc(none))    sums over tasks

as a task whose LoRA gains nothing has no ratio of its own. One test part for all seeds; no number
of the generator was chosen on it. Differs from the paper: texts and a small encoder, not pictures;
the model that reads the examples is frozen; the claim is decided with global statistics, since a
task's own tell the decoder which task it is. They are reported beside.
"""

from collections.abc import Mapping, Sequence
from time import perf_counter

import numpy as np

from taskgrove.measuring.claim import Claim, Statement, paired
from taskgrove.systems.debian.lora_arms import FULL, QUICK, of_known, of_unseen
from taskgrove.systems.debian.lora_zoo import zoo
from taskgrove.systems.system import Found, System

KNOWN, OWN, UNSEEN = "known", "known_own_statistics", "unseen"
GROUPS = {
    KNOWN: "known tasks, global statistics",
    OWN: "known tasks, each task's statistics",
    UNSEEN: "two unseen tasks, global statistics",
}
WITHOUT = {"original", "none"}  # 100 and 0 by definition


def run(arm: str, seed: int, quick: bool) -> Found:
    """{accuracy: {arm: [task]}, ...} of one way to ask; all share a seed's LoRAs."""
    here, pace, start = zoo(seed, quick), QUICK if quick else FULL, perf_counter()
    if arm == UNSEEN:
        found = of_unseen(here, seed, pace)
    else:
        found = of_known(here, seed, pace, own=arm == OWN)
    return {**found, "seconds": perf_counter() - start}


def recovered(accuracy: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """The recovered gain of each arm; not a number where the tasks' own LoRAs gain nothing."""
    total = {arm: float(np.sum(each)) for arm, each in accuracy.items()}
    gain = total["original"] - total["none"]
    return {
        arm: 100 * (each - total["none"]) / gain if gain > 0 else float("nan")
        for arm, each in total.items()
        if arm not in WITHOUT
    }


def conclude(found: Mapping[str, list[Found]], seeds: Sequence[int]) -> Claim:
    """The statements, from what each way and seed found."""
    scores: dict[str, dict[str, list[float]]] = {}
    for group, title in GROUPS.items():
        each = [recovered(part["accuracy"]) for part in found[group]]
        scores[title] = {arm: [one[arm] for one in each] for arm in each[0]}

    def more(theirs: str, group: str = KNOWN) -> list[float]:
        arms = scores[GROUPS[group]]
        return paired([arms["cvae"]], [arms[theirs]])

    def told(theirs: str, group: str = KNOWN) -> Statement:
        question = f"the CVAE recovers more than {theirs} ({GROUPS[group]})"
        return Statement(question, more(theirs, group), decides=False)

    statements = [
        Statement("the CVAE recovers 90 % or more of the gain of known tasks",
                  scores[GROUPS[KNOWN]]["cvae"], 90.0),
        Statement("30 points or more above the unconditional VAE", more("unconditional"), 30.0),
        Statement("30 points or more above shuffled task vectors", more("shuffled"), 30.0),
        Statement("above the mean of all LoRAs", more("soup")),
        told("ridge"), told("random_keys"), told("unconditional", OWN), told("shuffled", OWN),
        told("ridge", OWN), told("soup", UNSEEN), told("ridge", UNSEEN), told("nearest", UNSEEN),
    ]  # fmt: skip
    metric = "recovered gain over tasks, %"
    return Claim("icm_lora", metric, list(seeds), scores, statements, {}, dict(found),
                 _notes(found))  # fmt: skip


def _notes(found: Mapping[str, list[Found]]) -> list[str]:
    notes = []
    for group, title in GROUPS.items():
        accuracy = [part["accuracy"] for part in found[group]]
        mean = {arm: np.mean([one[arm] for one in accuracy]) for arm in accuracy[0]}
        each = ", ".join(f"{arm} {value:.1f}" for arm, value in mean.items())
        notes.append(f"{title}: mean test accuracy, %: {each}")
    for group in (KNOWN, OWN):
        size = found[group][0]["bytes"]
        each = ", ".join(f"{name} {count:,}" for name, count in size.items())
        ratio = size["cvae"] / size["LoRAs"]
        notes.append(
            f"{GROUPS[group]}: bytes: {each}; the CVAE takes {ratio:.2f} times what one LoRA a task"
            " takes"
        )
    return notes


SYSTEM = System(
    slug="icm_lora",
    title="In-Context Meta LoRA Generation, Shao et al.",
    year=2025,
    link="https://arxiv.org/abs/2501.17635",
    folders=("sharing", "composing", "measuring"),
    about="A conditional variational autoencoder learns the weights of all tasks' LoRAs. Its"
    " condition is a task's vector, the mean hidden state of the model over examples of the task."
    " A LoRA is then generated from the vector and loaded as any other.",
    expected="Generated LoRAs of known tasks are about as good as the tasks' own.",
    seconds=1500,
    command="taskgrove reproduce icm_lora",
    arms=tuple(GROUPS),
    run=run,
    conclude=conclude,
    seeds=3,
)
