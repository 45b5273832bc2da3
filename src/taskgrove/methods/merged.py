"""Merged models: the single-task fine-tunes' trunks become one, each task keeps its own head.

Scales are chosen on the labelled validation part, never on test. Passes are those of the
fine-tunes and of every look at validation rows.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from taskgrove.merging.in_memory import merged
from taskgrove.merging.learned.adamerging import adamerging as learn_scales
from taskgrove.merging.learned.task_vector import deltas, tied
from taskgrove.merging.learned.vectors import MemoryVectors
from taskgrove.methods.method import Job, Outcome, trainable
from taskgrove.methods.single import fine_tunes, heads_of
from taskgrove.sharing.model import MultiTaskModel
from taskgrove.training import checkpoint
from taskgrove.training.batch import Batch, Feed, feed
from taskgrove.training.budget import BACKWARD, FORWARD
from taskgrove.training.evaluate import chosen, goodness, predict, scores
from taskgrove.training.processes import processes, this_device

Weights = dict[str, Tensor]
ARITHMETIC_SCALES = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0]
TIES_SCALES = [0.4, 0.6, 0.8, 1.0, 1.2, 1.4, 1.7, 2.0]


def average(job: Job) -> Outcome:
    """The mean of the fine-tunes (see merging/static/average)."""
    return _merge(job, lambda base, tuned, _: (_static("average", base, tuned, {}), {}, 0.0))


def arithmetic(job: Job) -> Outcome:
    """Scaled sum of task vectors, best scale on validation (see merging/static/task_arithmetic)."""
    return _merge(job, partial(_best, job, "task_arithmetic", ARITHMETIC_SCALES))


def ties_merging(job: Job) -> Outcome:
    """Trimmed, sign-elected task vectors at the best scale on validation (merging/static/ties)."""
    return _merge(job, partial(_best, job, "ties", TIES_SCALES))


def _static(
    method: str, base: Weights, tuned: Sequence[Weights], parameters: dict[str, float]
) -> Weights:
    """A static merge of tensors on the CPU; tied names stay one tensor."""
    first = tied(base)
    arrays = [{n: w.numpy() for n, w in each.items() if n not in first} for each in (base, *tuned)]
    weights = merged(method, arrays[0], arrays[1:], parameters)
    found = {n: torch.from_numpy(w) for n, w in weights.items()}
    return {name: found[first.get(name, name)] for name in base}


def _merge(
    job: Job,
    method: Callable[
        [Weights, list[Weights], MultiTaskModel], tuple[Weights, dict[str, float], float]
    ],
) -> Outcome:
    tuned = fine_tunes(job)
    model = heads_of(job, tuned)
    started = time.monotonic()
    weights, scales, passes = method(*_trunks(model, tuned), model)
    model.trunks[0].load_state_dict(weights)
    return merged_outcome(model, tuned, passes, time.monotonic() - started, scales=scales)


def _trunks(model: MultiTaskModel, tuned: Mapping[str, Any]) -> tuple[Weights, list[Weights]]:
    """The weights of the start's trunk and of the K tuned ones."""
    base = {k: v.detach().cpu().clone() for k, v in model.trunks[0].state_dict().items()}
    return base, [
        {k: v.detach().cpu() for k, v in own.trunks[0].state_dict().items()}
        for own, _ in tuned.values()
    ]


def task_vectors(model: MultiTaskModel, tuned: Mapping[str, Any]) -> tuple[Weights, Weights]:
    """The start's trunk and the K differences from it."""
    base, trunks = _trunks(model, tuned)
    return base, deltas(base, trunks)


def merged_outcome(
    model: MultiTaskModel, tuned: Mapping[str, Any], passes: float, seconds: float, **more: Any
) -> Outcome:
    """The cost of a merged model includes that of the fine-tunes, which trained every weight."""
    trained = sum(trainable(own) for own, _ in tuned.values())
    return Outcome(
        model,
        passes=passes + sum(record.spent.passes for _, record in tuned.values()),
        seconds=seconds + sum(record.spent.seconds for _, record in tuned.values()),
        trainable_parameters=trained,
        curves=[],
        **more,
    )


def _best(
    job: Job,
    method: str,
    grid: Sequence[float],
    base: Weights,
    tuned: list[Weights],
    model: MultiTaskModel,
) -> tuple[Weights, dict[str, float], float]:
    """The weights at the scale with the best mean validation score; the first of equals."""
    passes = job.budget.passes_of(job.options.batch_size)
    most = job.options.look_rows(passes, len(model.tasks))
    model.to(this_device())
    found = {}
    for scale in grid:
        model.trunks[0].load_state_dict(_static(method, base, tuned, {"scale": scale}))
        predictions = predict(model, job.task_set, "validation", most_rows=most)
        found[scale] = goodness(job.task_set, scores(job.task_set, "validation", predictions, most))
    best = max(found, key=lambda scale: found[scale])
    looked = sum(len(chosen(job.task_set, name, "validation", most)) for name in model.tasks)
    weights = _static(method, base, tuned, {"scale": best})
    return weights, {"scale": best}, len(grid) * looked * FORWARD


def adaptive(job: Job, steps: int = 40, rows: int = 16, learning_rate: float = 1.25e-2) -> Outcome:
    """AdaMerging, layer-wise: a coefficient a task and tensor, by entropy on unlabelled inputs.

    The inputs are those of the validation part; their labels stay out of reach (see
    merging/learned/adamerging). A coefficient may travel as far as in the paper, 0.5 in all, in
    40 steps where the paper takes 500. Goes on after a kill from the last ten steps' end.
    """
    tuned = fine_tunes(job)
    model = heads_of(job, tuned).to(this_device())
    started = time.monotonic()
    base, tau = task_vectors(model, tuned)
    source = feed(job.task_set, list(model.tasks))
    kept = job.folder / "adamerging.safetensors"
    kept.parent.mkdir(parents=True, exist_ok=True)

    def tell(state: dict[str, Tensor]) -> None:
        done = len(state["curve"])
        if done % 10 == 0 and processes().is_main_process:
            checkpoint.write(kept, state, {})
        if job.progress is not None:
            job.progress("adamerging", done / steps, {"entropy": state["curve"][-1].mean().item()})

    merged = learn_scales(
        lambda weights, task, batch: _logits(model, weights, task, batch),
        MemoryVectors(base, tau),
        {task: _inputs(job, source, model, task, rows) for task in model.tasks},
        {name: task.kind for name, task in job.task_set.tasks.items()},
        steps=steps,
        learning_rate=learning_rate,
        resume=checkpoint.read(kept)[0] if kept.exists() else None,
        progress=tell,
    )
    model.trunks[0].load_state_dict(merged.weights)
    kept.unlink(missing_ok=True)
    return merged_outcome(
        model,
        tuned,
        passes=steps * sum(_drawn(job, task, rows) for task in merged.tasks),
        seconds=time.monotonic() - started,
        notes=list(merged.notes),
        coefficients={
            "tasks": list(model.tasks),
            "tensors": list(merged.tensors),
            "values": merged.coefficients.tolist(),
        },
    )


def _drawn(job: Job, task: str, rows: int) -> float:
    """Passes of one step of a task."""
    return min(rows, len(job.task_set.rows(task, "validation"))) * (FORWARD + BACKWARD)


def _logits(model: MultiTaskModel, weights: Weights, task: str, batch: Batch) -> Tensor:
    features = torch.func.functional_call(model.trunks[0], weights, (batch.inputs,))
    return model.head(task)(features)


def _inputs(
    job: Job, source: Feed, model: MultiTaskModel, task: str, count: int
) -> Callable[[int], Batch]:
    """step -> `count` validation inputs of a task, in seeded epochs, without their targets."""
    rows = job.task_set.rows(task, "validation")
    table = job.task_set.tasks[task].table

    def draw(step: int) -> Batch:
        per_epoch = max(1, len(rows) // count)
        epoch, place = divmod(step, per_epoch)
        order = np.random.Generator(np.random.Philox(key=[job.seed, epoch])).permutation(rows)
        mine = order[place * count : (place + 1) * count]
        batch = source.batch(model.trunk(task).prepare, np.full(len(mine), table), mine)
        return Batch(batch.inputs, batch.route, {}).to(this_device())

    return draw
