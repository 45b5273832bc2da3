"""self_positioning: where in the span of the task vectors should one embedding model sit?

On your own data: `taskgrove merge self-positioning --base M --tuned A B C --probe probe.jsonl`.

The experiment: MiniLM and four tasks of very unequal sizes (see suites/embedding_pairs), its upper
two layers trained by InfoNCE, 30 steps of 12 pairs on each task alone and 120 steps jointly, one
task a batch. Probe: 64 rows a task, in no training set and in no test; whatever an arm may choose
(a scale, when to stop) it chooses by the probe's metric. All arms of a seed share rows and batches.

`scale`: theta_0 + s/4 sum_t tau_t with s from SCALES, the strongest simple merge. `position`: s and
the weights learned on the probe; `position_relative`: each loss divided by its value at the base.
`tuned`: all upper weights learned on the probe, from the best scale. Each of the
three sees 30 steps of 8 probe pairs a task, 960; the single models, and any joint arm, see 1,440.
Settings were fixed on seed 1000, which tests on rows that no claim reads.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from taskgrove.measuring.claim import Claim, Statement, paired
from taskgrove.merging.learned.vectors import MemoryVectors
from taskgrove.suites.embedding_pairs import TASKS
from taskgrove.systems.embedding.arms import cosines, position, schedule, tuned
from taskgrove.systems.embedding.setting import Setting, setting
from taskgrove.systems.system import Found, System

JOINT = {"joint_proportional": 1.0, "joint_temperature": 2.0, "joint_uniform": float("inf")}
SCALES = (1.0, 2.0, 3.0, 4.0, 5.0)  # 1: the average; 4: the sum
ALONE = tuple(f"{task}_alone" for task in TASKS)
POSITIONS = {"position": False, "position_relative": True}
GRADIENTS = 2  # batches of a task whose gradients are compared


def run(arm: str, seed: int, quick: bool) -> Found:
    """A joint arm's scores; of "merged", those of all that starts from the four single models."""
    s = setting(seed, quick)
    if arm == "merged":
        return merged(s)
    steps = s.size.steps * len(TASKS)
    W = s.train(s.encoder.base(), schedule(s.size.rows, JOINT[arm], steps, seed))
    found: Found = {"scores": {arm: s.scores(W, "test")}}
    if arm == "joint_uniform":
        ends = {"base": s.encoder.base(), "end": W}
        found["cosines"] = {at: cosines(s.gradients(W, GRADIENTS)) for at, W in ends.items()}
    return found


def merged(s: Setting) -> Found:
    """The four single models and what can be made of them."""
    base = s.encoder.base()
    models = {f"{task}_alone": s.train(base, [task] * s.size.steps) for task in TASKS}
    tau = {n: torch.stack([W[n] - w for W in models.values()]) for n, w in base.items()}
    sums = {x: {n: w + x * tau[n].mean(0) for n, w in base.items()} for x in SCALES}
    probe = {x: s.scores(W, "probe")["mean"] for x, W in sums.items()}
    best = sums[max(probe, key=lambda x: probe[x])]
    models |= {"base": base, "average": sums[1.0], "scale": best, "tuned": tuned(s, best)}
    positions = {}
    for arm, relative in POSITIONS.items():
        models[arm], positions[arm] = position(s, MemoryVectors(base, tau), relative)
    flat = torch.cat([t.flatten(1) for t in tau.values()], 1)  # [task dim]
    return {
        "scores": {arm: s.scores(W, "test") for arm, W in models.items()},
        "probe": {str(x): score for x, score in probe.items()}, "positions": positions,
        "vectors": {"lengths": flat.norm(dim=1).tolist(), "cosines": cosines(flat[:, None])},
    }  # fmt: skip


def conclude(found: Mapping[str, list[Found]], seeds: Sequence[int]) -> Claim:
    """The statements, from what each part and seed found."""
    by_arm = {arm: [each["scores"][arm] for each in parts] for parts in found.values()
              for arm in parts[0]["scores"]}  # fmt: skip
    order = ["base", *ALONE, *JOINT, "average", "scale", *POSITIONS, "tuned"]
    scores = {group: {arm: [each[group] for each in by_arm[arm]] for arm in order}
              for group in ("mean", *TASKS)}  # fmt: skip
    mean, smallest = scores["mean"], scores[TASKS[-1]]

    def over(arm: str, ours: str = "position") -> list[float]:
        return paired([mean[ours]], [mean[arm]])

    gains = paired([smallest["position"]], [smallest["joint_proportional"]])
    statements = [
        Statement("position is 1 point or more above joint_proportional",
                  over("joint_proportional"), 1.0),
        Statement(f"the smallest task, {TASKS[-1]}, gains 3 points or more", gains, 3.0),
        Statement("position is not below the best simple merge", over("scale"), 0.0, 0.5),
        Statement("position is above joint_uniform", over("joint_uniform")),
        *(Statement(f"position is above {arm}", over(arm), decides=False)
          for arm in ("average", "joint_temperature", "tuned")),
        Statement("position_relative is above position", over("position", "position_relative"),
                  decides=False),
        Statement("joint_uniform is above joint_proportional",
                  over("joint_proportional", "joint_uniform"), decides=False),
    ]  # fmt: skip
    parts = found["merged"]
    curve = {x: [part["probe"][x] for part in parts] for x in parts[0]["probe"]}
    return Claim("self_positioning", "mean of nDCG@10 (two tasks) and 10-NN accuracy (two), %",
                 list(seeds), scores, statements,
                 {"equal weights on the probe, by scale": {"mean": curve}}, dict(found),
                 notes(found))  # fmt: skip


def notes(found: Mapping[str, list[Found]]) -> list[str]:
    """Conflict, positions and cost, as measured."""
    told = []
    for at in ("base", "end"):
        found_at = np.concatenate([part["cosines"][at] for part in found["joint_uniform"]])
        told.append(
            f"gradients of two tasks, {at} of uniform joint training: {np.mean(found_at < 0):.0%}"
            f" of {len(found_at)} cosines are negative, mean {found_at.mean():.3f}"
        )
    for arm in POSITIONS:
        places = [part["positions"][arm] for part in found["merged"]]
        w = np.mean([place["weights"] for place in places], 0)
        shares = ", ".join(f"{task} {share:.2f}" for task, share in zip(TASKS, w, strict=True))
        told.append(f"{arm}: scale {np.mean([place['scale'] for place in places]):.2f}, {shares}")
    told += [
        note
        for part in found["merged"]
        for arm in POSITIONS
        for note in part["positions"][arm]["notes"]
    ]
    return told


SYSTEM = System(
    slug="self_positioning",
    title="Improving General Text Embedding Model: Tackling Task Conflict and Data Imbalance"
    " through Model Merging, Li et al.",
    year=2024,
    link="https://arxiv.org/abs/2410.15035",
    folders=("merging", "objectives", "mixing", "measuring"),
    about="Joint training of an embedding model suffers from conflicting tasks and from data of"
    " unequal size. So one model is trained per task, and descent on a small balanced probe learns"
    " the weights and the length of the mix of their task vectors. The position takes T + 1"
    " numbers and no new training.",
    expected="Two to three points above proportional joint training and none above uniform joint"
    " training: even sampling alone may explain the gain.",
    seconds=600,
    command="taskgrove reproduce self_positioning",
    arms=(*JOINT, "merged"),
    run=run,
    conclude=conclude,
)
