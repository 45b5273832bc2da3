"""Merges of a seed's six fine-tunes, and uses of the same labels, that several claims compare with.

Of the labelled validation rows the searches over a scale read all; what trains on labels fits
three quarters and chooses by the others.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from taskgrove.merging.in_memory import merged
from taskgrove.merging.learned.adamerging import AdaMerged, adamerging
from taskgrove.merging.learned.learn import State
from taskgrove.merging.learned.rounds import drawn
from taskgrove.merging.learned.scaled_merge import ScaledMerge
from taskgrove.merging.learned.vectors import MemoryVectors
from taskgrove.objectives.entropy import prediction_entropy
from taskgrove.systems.debian.debtag_models import Substrate
from taskgrove.systems.debian.facet_rows import TASKS
from taskgrove.systems.debian.fine_tunes import cosine, fine_tunes, fit, tuning
from taskgrove.systems.debian.top_layers import Texts, Weights

SCALES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)
TIES_SCALES = (0.4, 0.6, 0.8, 1.0, 1.2, 1.5, 2.0)
STEPS, ROWS = 40, 12  # of whatever is learned for all tasks; rows of each task in a step
TASK_RATE, RATE = 3e-3, 3e-2  # of AdaMerging, task-wise and layer-wise
LABEL_RATE = 5e-5  # where all weights are tuned on the labelled rows
FITTED = 0.75  # of the labelled rows

Told = dict[str, Any]


@lru_cache(maxsize=1)
def vectors(world: Substrate) -> MemoryVectors:
    """The six task vectors."""
    base, tuned = world.encoder.base(), fine_tunes(world).values()
    tau = {name: torch.stack([own[name] - w for own in tuned]) for name, w in base.items()}
    return MemoryVectors(base, tau)


def static(world: Substrate, method: str, **parameters: object) -> Weights:
    """A merge without training."""
    models = [world.encoder.base(), *fine_tunes(world).values()]
    base, *tuned = [{name: w.numpy() for name, w in model.items()} for model in models]
    found = merged(method, base, tuned, parameters)
    return {name: torch.from_numpy(w) for name, w in found.items()}


@lru_cache(maxsize=2)
def best_scale(world: Substrate, method: str, scales: Sequence[float]) -> tuple[Weights, Told]:
    """The merge whose scale does best on labelled validation rows; the first of equals."""
    tried = scales[::3] if world.quick else scales
    found = {
        scale: world.accuracy(static(world, method, scale=scale), "validation") for scale in tried
    }
    best = max(found, key=lambda scale: found[scale])
    return static(world, method, scale=best), {"scale": best, "validation": list(found.values())}


def best_arithmetic(world: Substrate) -> tuple[Weights, Told]:
    """The strongest simple merge: task arithmetic at the scale that validation chose."""
    return best_scale(world, "task_arithmetic", SCALES)


def learned(
    world: Substrate,
    quick: bool,
    part: str = "test",
    granularity: str = "tensor",
    plus: bool = False,
    progress: Callable[[State], None] | None = None,
) -> AdaMerged:
    """AdaMerging on the texts of a part; their labels stay behind."""
    rate = TASK_RATE if granularity == "task" else RATE

    def inputs(task: str) -> Callable[[int], Texts]:
        texts = world.parts[task][part].texts
        rows = torch.arange(len(texts))
        return lambda step: texts.take(drawn(rows, step, ROWS, world.seed))

    return adamerging(
        world.logits, vectors(world), {task: inputs(task) for task in TASKS},
        dict.fromkeys(TASKS, "classes"), 4 if quick else STEPS, rate, granularity, plus=plus,
        progress=progress,
    )  # fmt: skip


def labelled(world: Substrate, fitted: bool) -> dict[str, Int[Tensor, " row"]]:
    """The validation rows of each task that labels are fitted to, or those that choose."""
    rows = {task: torch.arange(len(world.parts[task]["validation"].labels)) for task in TASKS}
    cut = {task: round(FITTED * len(mine)) for task, mine in rows.items()}
    return {t: mine[: cut[t]] if fitted else mine[cut[t] :] for t, mine in rows.items()}


def tuned_on_labels(
    world: Substrate, quick: bool, start: Weights, looks: int = 4
) -> tuple[Weights, Told]:
    """All of the top layers tuned on the labelled rows: the best of a few looks and the start."""
    fitted, choose = labelled(world, True), labelled(world, False)
    every = (4 if quick else STEPS) // looks

    def draw(step: int) -> dict[str, Tensor]:
        return {task: drawn(mine, step, ROWS, world.seed) for task, mine in fitted.items()}

    found = [(world.accuracy(start, "validation", choose), start)]
    for look in range(looks):
        rates = [LABEL_RATE] * every
        weights = fit(world, found[-1][1], draw, rates, "validation", look * every)
        found.append((world.accuracy(weights, "validation", choose), weights))
    best = max(range(len(found)), key=lambda n: found[n][0])
    return found[best][1], {"steps": best * every, "validation": [score for score, _ in found]}


def joint(world: Substrate, quick: bool) -> Weights:
    """One model trained on all tasks' rows, in as many steps as the fine-tunes have together."""
    steps, rate, batch = tuning(quick)
    rows = {task: torch.arange(len(world.parts[task]["train"].labels)) for task in TASKS}
    more = batch % len(TASKS)
    counts = {task: batch // len(TASKS) + (n < more) for n, task in enumerate(TASKS)}

    def draw(step: int) -> dict[str, Tensor]:
        return {task: drawn(rows[task], step, counts[task], world.seed) for task in TASKS}

    rates = cosine(steps * len(TASKS), rate)
    return fit(world, world.encoder.base(), draw, rates)


def examined(world: Substrate, granularity: str, lam: Tensor) -> Told:
    """Entropy and accuracy of each task on the test part, with coefficients lam."""
    merge = ScaledMerge(vectors(world), granularity)
    with torch.no_grad():
        merge.coefficients.copy_(lam)
    weights, found = merge.weights(), {}
    for task in TASKS:
        logits = world.answers(weights, task, "test")
        right = logits.argmax(1) == world.parts[task]["test"].labels
        found[task] = prediction_entropy(logits).mean().item(), 100 * right.double().mean().item()
    return found
