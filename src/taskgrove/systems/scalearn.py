"""scalearn: what other tasks' frozen adapters give, scaled anew (see sharing/scaled_adapters).

On your own data: `taskgrove train scalearn --tasks tasks.yaml --out model`; also scalearn_uniform,
scalearn_pp, scalearn_uniform_pp and adapter_fusion.

The experiment: eight Debian tasks on MiniLM's upper three layers (see debian/transfer). Three are
targets in turn, with 100 training rows; sources are the others' adapters, trained on 384
rows each, and the target's own, trained on its few rows only. One test part for all seeds; a seed
draws the other rows, batches and weights. Learning rates were chosen on the validation rows of seed
100, which is not among the seeds. Differs from the paper: upper layers, 64 steps, not 30 epochs.
"""

from collections.abc import Mapping, Sequence
from time import perf_counter

import numpy as np

from taskgrove.measuring.claim import Claim, Statement, paired
from taskgrove.systems.debian.adapter_arms import ARMS, arms
from taskgrove.systems.debian.over_rows import over_rows
from taskgrove.systems.debian.transfer_rows import world
from taskgrove.systems.system import Found, System

TARGETS = ("works-with", "suite", "use")
READ = (  # what else is compared
    ("scalearn", "head_only"), ("scalearn", "best_source"), ("scalearn", "fixed_2_S"),
    ("scalearn_pp", "fixed_2_S"), ("uniform_pp", "fixed_2_S"), ("scalearn", "uniform"),
    ("scalearn", "scalearn_pp"), ("uniform", "uniform_pp"), ("single_adapter", "head_only"),
    ("fixed_2_S", "single_adapter"), ("mean_of_adapters", "single_adapter"),
    ("adapter_fusion", "mean_of_adapters"),
)  # fmt: skip


def run(arm: str, seed: int, quick: bool) -> Found:
    """{rows: {arm: {test, validation, right, ...}}} of a target; all arms share its adapters."""
    here, start = world(seed, quick), perf_counter()
    found: Found = {"head": (here.trunk.width + 1) * here.classes[arm]}
    for rows in here.size.rows:
        parts = {**here.parts[arm], "train": here.parts[arm]["train"].first(rows)}
        found[str(rows)] = arms(here, arm, parts, (here.size.steps, here.size.batch))
    return {**found, "seconds": perf_counter() - start}


def conclude(found: Mapping[str, list[Found]], seeds: Sequence[int]) -> Claim:
    """The statements, from what each target and seed found."""
    rows = next(n for n in found[TARGETS[0]][0] if n.isdigit())
    scores = {
        arm: np.mean([[part[rows][arm]["test"] for part in found[t]] for t in TARGETS], 0).tolist()
        for arm in ARMS
    }

    def more(theirs: str, *ours: str) -> list[float]:
        return paired([scores[arm] for arm in ours], [scores[theirs]] * len(ours))

    def told(ours: str, theirs: str) -> Statement:
        return Statement(f"{ours} is above {theirs}", more(theirs, ours), decides=False)

    vectors = ("scalearn", "scalearn_pp")
    statements = [
        Statement("ScaLearn and ++ are 2 points or more above a single adapter",
                  more("single_adapter", *vectors), 2.0),
        Statement("ScaLearn and ++ are not below AdapterFusion",
                  more("adapter_fusion", *vectors), 0.0, 0.5),
        Statement("8 scalars (Uniform++) are not below the mean of adapters",
                  more("mean_of_adapters", "uniform_pp"), 0.0, 0.5),
        Statement("ScaLearn and ++ are above the mean of adapters",
                  more("mean_of_adapters", *vectors)),
        *(told(*pair) for pair in READ),
    ]  # fmt: skip
    sizes = {arm: found[TARGETS[0]][0][rows][arm]["parameters"] for arm in ARMS}
    curves = {"accuracy by transfer parameters":
              {arm: {str(size): scores[arm]} for arm, size in sizes.items() if size}}  # fmt: skip
    each = ", ".join(f"{arm} {size:,}" for arm, size in sizes.items())
    notes = [
        *_notes(found, rows),
        f"Transfer parameters of a target: {each}; beside them its head's: {_heads(found)}",
    ]
    groups, metric = {f"{rows} rows a target": scores}, "mean test accuracy of the three targets, %"
    return Claim("scalearn", metric, list(seeds), groups, statements, curves, dict(found), notes)


def _heads(found: Mapping[str, list[Found]]) -> str:
    return ", ".join(f"{found[target][0]['head']:,} ({target})" for target in TARGETS)


def _notes(found: Mapping[str, list[Found]], rows: str) -> list[str]:
    def right(arm: str) -> list[dict[str, str]]:
        each = zip(*(found[target] for target in TARGETS), strict=True)
        return [{t: p[rows][arm]["right"] for t, p in zip(TARGETS, parts, strict=True)}
                for parts in each]  # fmt: skip

    notes = []
    for theirs in ("single_adapter", "mean_of_adapters"):
        low, high = over_rows(right("scalearn"), right(theirs))
        notes.append(
            f"scalearn minus {theirs}, resampling the rows of the one test part"
            f" instead of the seeds: 95 % interval {low:+.2f} to {high:+.2f}"
        )
    for target in TARGETS:
        parts = [part[rows] for part in found[target]]
        omega = {task: float(np.mean([part["scalearn"]["omega"][task] for part in parts]))
                 for task in parts[0]["scalearn"]["omega"]}  # fmt: skip
        order = sorted(omega, key=lambda task: -abs(omega[task]))
        shares = ", ".join(f"{task} {omega[task]:.2f}" for task in order)
        notes.append(f"{target}: mean omega of ScaLearn over layers, numbers and seeds: {shares}")
        gains = {arm: float(np.mean([part[arm]["test"] for part in parts])) for arm in ARMS}
        notes.append(f"{target}: " + ", ".join(f"{arm} {gain:.1f}" for arm, gain in gains.items()))
    return notes


SYSTEM = System(
    slug="scalearn",
    title="ScaLearn: Parameter-Efficient Task Transfer by Learning to Scale, Frohmann et al.",
    year=2024,
    link="https://arxiv.org/abs/2310.01217",
    folders=("sharing", "merging/learned", "measuring"),
    about="Each source task has a small adapter, trained alone on a frozen trunk. A target task"
    " runs all of them side by side and learns only how much each one's output is scaled, by"
    " vectors or single numbers, and its head. There is no attention; scales are unconstrained.",
    expected="Here a linear head on MiniLM is about as good as an adapter of 100 rows: other"
    " tasks' adapters have little to give.",
    seconds=1500,
    command="taskgrove reproduce scalearn",
    arms=TARGETS,
    run=run,
    conclude=conclude,
)
