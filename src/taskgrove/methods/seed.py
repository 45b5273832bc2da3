"""seed: the share of a comparison that one seed makes up: a start, then each method from it.

What is found is kept under `work/seed-s/outcomes/METHOD`; a second run finds it there. Seeds do not
know of each other, so they may run side by side (see parallel).
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from taskgrove import __version__
from taskgrove.methods import METHODS
from taskgrove.methods.method import Job, Outcome, Progress, own, stored
from taskgrove.methods.results import inference_passes
from taskgrove.methods.settings import Settings
from taskgrove.methods.start import Make, start
from taskgrove.sharing.folder import load
from taskgrove.tasks.task_set import TaskSet
from taskgrove.training import checkpoint
from taskgrove.training.evaluate import goodness, predict, scores
from taskgrove.training.processes import processes
from taskgrove.training.run import Record

# (seed, method, what, share done, losses by task)
Tell = Callable[[int, str, str, float, Mapping[str, float]], None]
MOST_VALIDATION = 2000  # rows a task by which the best model is chosen


def folder_of(out: Path, seed: int) -> Path:
    """Where a seed works below the run folder."""
    return out / "work" / f"seed-{seed}"


def run_seed(
    task_set: TaskSet, out: Path, seed: int, settings: Settings, tell: Tell | None
) -> None:
    """The start and all methods of one seed, in this process."""
    folder = folder_of(out, seed)
    place, record, pretrained = start(
        task_set,
        folder / "start",
        seed=seed,
        steps=settings.start_steps,
        options=settings.options,
        name=settings.backbone,
        progress=_progress(tell, seed, "start"),
    )
    make = settings.backbone if callable(settings.backbone) else None
    _measure_start(task_set, place, record, make)
    budget, options = settings.budget.in_passes(settings.options.batch_size), settings.options
    for name in settings.all_methods:
        progress = _progress(tell, seed, name)
        job = Job(task_set, place, budget, options, seed, folder, pretrained, progress, make)
        _once(job, name)


def _measure_start(task_set: TaskSet, place: Path, record: Record, make: Make | None) -> None:
    """What the start cost and what it is worth by itself."""
    kept = place.parent / "outcome.json"
    if not kept.exists():
        found = scores(task_set, "test", predict(load(place, make), task_set, "test"))
        spent = {"passes": record.spent.passes, "seconds": record.spent.seconds}
        if processes().is_main_process:
            checkpoint.write_json(kept, {**spent, "test": found})


def _progress(tell: Tell | None, seed: int, method: str) -> Progress:
    def progress(what: str, done: float, losses: Mapping[str, float]) -> None:
        if tell is not None:
            tell(seed, method, what, done, losses)

    return progress


def _once(job: Job, name: str) -> None:
    """Runs a method and keeps what it found, unless an earlier run did."""
    kept = job.folder / "outcomes" / name
    if (kept / "outcome.json").exists():
        return
    outcome = METHODS[name].run(job)
    if job.progress is not None:
        job.progress("measuring", 1.0, {})
    most = {"validation": MOST_VALIDATION, "test": None}
    found = {
        split: predict(outcome.model, job.task_set, split, most_rows=rows)
        for split, rows in most.items()
    }
    if not processes().is_main_process:
        return
    outcome.model.save(kept / "model", {"method": name, "seed": job.seed, "version": __version__})
    for split, predictions in found.items():
        arrays = {str(n): np.ascontiguousarray(p) for n, p in enumerate(predictions.values())}
        save_file(arrays, kept / f"{split}.safetensors")
    checkpoint.write_json(kept / "outcome.json", _described(job, outcome, found["validation"]))


def _described(job: Job, outcome: Outcome, validation: dict[str, np.ndarray]) -> dict[str, Any]:
    """What is kept of an outcome, and the `goodness` by which methods are chosen among.

    A trained model is the best of its looks, and one model a task chooses a look for each task, so
    the best look flatters it; the last look flatters nobody.
    """
    found = scores(job.task_set, "validation", validation, MOST_VALIDATION)
    last = {curve["task"]: curve["points"][-1]["validation"] for curve in outcome.curves}
    return {
        "validation": found,
        "goodness": goodness(job.task_set, found | last),
        "passes": outcome.passes,
        "seconds": outcome.seconds,
        "trainable_parameters": outcome.trainable_parameters,
        "stored_parameters": stored(outcome.model),
        "own_parameters": own(outcome.model),
        "inference_passes": inference_passes(outcome.model, job.task_set),
        "curves": outcome.curves,
        "notes": outcome.notes,
        "scales": outcome.scales,
        "coefficients": outcome.coefficients,
        "balance": outcome.balance,
    }
