"""adamerging: scales of task vectors learned from unlabelled inputs (merging/learned/adamerging).

On your own data: `taskgrove merge adamerging --base B --tuned A1 A2 --unlabelled t1.csv t2.csv
--out M`, or `taskgrove train adamerging --tasks tasks.yaml --out model`.

The experiment: MiniLM's top two layers, tuned on six Debian tasks one by one through frozen heads
made of the labels' names (systems/debian), then merged. One test part for all seeds; a seed draws
the other rows, batches and fine-tunes. Settings were chosen on the validation and pool rows of
seed 100, which is not among the seeds; how hard the fine-tunes pull (their schedule) was set there
too, and it decides by how many points a learned scale beats a fixed one. Entropy sees test inputs,
as in the paper, or a disjoint pool (`layer_wise_pool`). `pictures`: the library's own fine-tunes of
a small CNN on the embedded suite; there the inputs are validation inputs and the learning rate is
the one that the texts chose.
"""

from collections.abc import Callable, Mapping, Sequence
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from taskgrove.measuring.claim import Claim, Statement, paired
from taskgrove.merging.learned.adamerging import AdaMerged
from taskgrove.systems.debian.debtag_models import Substrate, substrate
from taskgrove.systems.debian.facet_rows import TASKS
from taskgrove.systems.debian.fine_tunes import fine_tunes
from taskgrove.systems.debian.merges import (
    RATE,
    TIES_SCALES,
    Told,
    best_arithmetic,
    best_scale,
    examined,
    joint,
    learned,
    static,
    tuned_on_labels,
)
from taskgrove.systems.debian.over_rows import over_rows, scored
from taskgrove.systems.debian.top_layers import Weights
from taskgrove.systems.embedded import picture_models
from taskgrove.systems.system import Found, System

LOOKS = (1, 4, 12, 40)  # steps after which the merged model is examined

Way = Callable[[Substrate, bool], tuple[Weights, Told]]


def adaptive(part: str, granularity: str = "tensor", plus: bool = False, look: bool = False) -> Way:
    """AdaMerging on the inputs of a part."""

    def merge(world: Substrate, quick: bool) -> tuple[Weights, Told]:
        looks: dict[str, Told] = {}

        def watch(state: dict[str, Tensor]) -> None:
            if (step := len(state["curve"])) in LOOKS[: 2 if quick else None] and look:
                looks[str(step)] = examined(world, granularity, state["coefficients"])

        found = learned(world, quick, part, granularity, plus, watch)
        return found.weights, {"looks": looks, **_kept(found)}

    return merge


def _kept(found: AdaMerged) -> Told:
    entropy = found.entropy.mean(1).tolist()
    shares = {task: (n.max() / n.sum()).item() for task, n in found.predictions.items()}
    return {"coefficients": _rounded(found.coefficients), "entropy": entropy,
            "largest_share": shares, "notes": list(found.notes)}  # fmt: skip


def _rounded(c: Tensor) -> list[Any]:
    return (c.double() * 1e4).round().div(1e4).tolist()


WAYS: dict[str, Way] = {
    "zero_shot": lambda world, _: (world.encoder.base(), {}),
    "individual": lambda world, _: (world.encoder.base(), {}),  # six models: see run
    "joint": lambda world, quick: (joint(world, quick), {}),
    "average": lambda world, _: (static(world, "average"), {}),
    "arithmetic_0.3": lambda world, _: (static(world, "task_arithmetic", scale=0.3), {}),
    "arithmetic_best": lambda world, _: best_arithmetic(world),  # the strongest simple merge
    "ties_best": lambda world, _: best_scale(world, "ties", TIES_SCALES),
    "task_wise": adaptive("test", "task", look=True),
    "layer_wise": adaptive("test", look=True),
    "layer_wise_pool": adaptive("pool"),
    "layer_wise_plus": adaptive("test", plus=True),
    # uses labels: not a merge, but what they could buy instead
    "labels_tuned": lambda world, quick: tuned_on_labels(world, quick, best_arithmetic(world)[0]),
}


def run(arm: str, seed: int, quick: bool) -> Found:
    """{debtags, and pictures where the arm is tried there: {test, mean, ...}}."""
    world, start = substrate(seed, quick), perf_counter()
    weights, told = WAYS[arm](world, quick)
    models = fine_tunes(world) if arm == "individual" else dict.fromkeys(TASKS, weights)
    right = {task: world.right(model, task, "test") for task, model in models.items()}
    seconds = perf_counter() - start
    found: Found = {"debtags": {**told, **scored(right), "seconds": seconds}}
    if arm in picture_models.WAYS:
        found["pictures"] = picture_models.run(arm, seed, quick, RATE)
    return found


def conclude(found: Mapping[str, list[Found]], seeds: Sequence[int]) -> Claim:
    """The statements, from what each arm and seed found."""
    scores = {
        group: {arm: [part[group]["mean"] for part in parts]
                for arm, parts in found.items() if group in parts[0]}
        for group in ("debtags", "pictures")
    }  # fmt: skip

    def more(ours: str, theirs: str, group: str = "debtags") -> list[float]:
        return paired([scores[group][ours]], [scores[group][theirs]])

    def told(arm: str, theirs: str, words: str) -> Statement:
        return Statement(f"{arm} is above {theirs}{words}", more(arm, theirs), decides=False)

    depth = [_depth(part["debtags"]["coefficients"]) for part in found["layer_wise"]]
    best, layer = "arithmetic_best", "layer_wise"
    statements = [
        Statement("layer_wise is 3 points or more above arithmetic_0.3",
                  more(layer, "arithmetic_0.3"), 3.0),
        Statement("layer_wise is not below arithmetic_best", more(layer, best), 0.0, 0.5),
        told("task_wise", "arithmetic_0.3", ""),
        told("layer_wise_pool", "arithmetic_0.3", ", unlabelled inputs that are not tested"),
        told("layer_wise_pool", best, ", unlabelled inputs that are not tested"),
        told(layer, "ties_best", ""),
        told("layer_wise_plus", layer, ""),
        told("labels_tuned", layer, ": labels are worth more"),
        Statement("coefficients of the upper layer are above the lower's", depth, decides=False),
        Statement("pictures: layer_wise is above arithmetic_0.3",
                  more(layer, "arithmetic_0.3", "pictures"), decides=False),
        Statement("pictures: layer_wise is not below arithmetic_best",
                  more(layer, best, "pictures"), 0.0, 0.5, decides=False),
    ]  # fmt: skip
    curves = {f"{what} after steps": {arm: _curve(found[arm], place)
                                     for arm in (layer, "task_wise")}
              for place, what in enumerate(("entropy of test inputs", "accuracy"))}  # fmt: skip
    return Claim("adamerging", "mean test accuracy of the six tasks, %", list(seeds), scores,
                 statements, curves, dict(found), _notes(found))  # fmt: skip


def _depth(coefficients: list[list[float]]) -> float:
    """Mean of the last layer's coefficients minus that of the layer below."""
    c = torch.tensor(coefficients)  # [model tensor], layer after layer
    half = c.shape[1] // 2
    return (c[:, half:].mean() - c[:, :half].mean()).item()


def _curve(parts: Sequence[Found], place: int) -> dict[str, list[float]]:
    looks = [part["debtags"]["looks"] for part in parts]
    return {step: [sum(pair[place] for pair in look[step].values()) / len(look[step])
                   for look in looks] for step in looks[0]}  # fmt: skip


def _notes(found: Mapping[str, list[Found]]) -> list[str]:
    def right(arm: str) -> list[dict[str, str]]:
        return [part["debtags"]["right"] for part in found[arm]]

    notes = []
    for theirs in ("arithmetic_0.3", "arithmetic_best"):
        low, high = over_rows(right("layer_wise"), right(theirs))
        notes.append(
            f"debtags: layer_wise minus {theirs}, resampling the rows of the one test part"
            f" instead of the seeds: 95 % interval {low:+.2f} to {high:+.2f}"
        )
    for arm in ("task_wise", "layer_wise"):
        for task in TASKS:
            gain = [
                part["debtags"]["test"][task] - start["debtags"]["test"][task]
                for part, start in zip(found[arm], found["arithmetic_0.3"], strict=True)
            ]
            notes.append(f"{arm}, {task}: {sum(gain) / len(gain):+.1f} points from its start")
    return notes


SYSTEM = System(
    slug="adamerging",
    title="AdaMerging: Adaptive Model Merging for Multi-Task Learning, Yang et al.",
    year=2024,
    link="https://arxiv.org/abs/2310.02575",
    folders=("merging", "objectives", "measuring", "systems/debian"),
    about="Models tuned from one base are merged by scaled task vectors. The scales, one a task or"
    " one a task and tensor, are learned: they lower the entropy of the merged model's predictions"
    " on unlabelled inputs. No labels and no training data are needed.",
    expected="Layer-wise scales beat the fixed 0.3 by a few points and equal the best scale that"
    " labels choose; one scale a task does not.",
    seconds=1200,
    command="taskgrove reproduce adamerging",
    arms=tuple(WAYS),
    run=run,
    conclude=conclude,
)
