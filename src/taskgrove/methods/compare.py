"""compare: methods at equal budget on the same rows, measured on the same test rows.

The run folder holds everything: `work/seed-s/...` what a killed run goes on from, then
`results.json`, `report.html` and `model/`, the best model by validation. Run again with the same
settings it goes on, or only measures; nothing is trained twice. Cost: one start a seed, each
trained method's budget a seed, one set of fine-tunes a seed for `single` and all merged methods
together.
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from taskgrove import __version__
from taskgrove.errors import TaskgroveError, did_you_mean, listed
from taskgrove.methods import METHODS
from taskgrove.methods.method import Job, Outcome, size
from taskgrove.methods.results import assemble, inference_passes
from taskgrove.methods.start import start
from taskgrove.tasks.task_set import TaskSet
from taskgrove.training import checkpoint
from taskgrove.training.budget import Budget
from taskgrove.training.evaluate import goodness, predict, scores
from taskgrove.training.fit import Record
from taskgrove.training.options import Options
from taskgrove.training.processes import processes, wait

# (seed, method, what, share done, losses by task)
Tell = Callable[[int, str, str, float, Mapping[str, float]], None]


@dataclass(frozen=True)
class Settings:
    """What a comparison does; results.json carries it whole."""

    methods: Sequence[str] = tuple(METHODS)
    budget: Budget = field(default_factory=lambda: Budget(steps=600))
    seeds: Sequence[int] = (0, 1)
    options: Options = field(default_factory=Options)
    start_steps: int | None = None  # None: 300 for a trunk of our own, 0 for a pre-trained one
    backbone: str | None = None

    def __post_init__(self) -> None:
        for name in self.methods:
            if name not in METHODS:
                hint = did_you_mean(name, METHODS)
                raise TaskgroveError(
                    f'there is no method "{name}"; there are {listed(METHODS, 20)}.{hint}'
                )
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise TaskgroveError("seeds must be one or more different numbers, such as 0 1 2")

    def to_json(self) -> dict[str, Any]:
        """Plain values; the budget as its one limit."""
        budget = {self.budget.unit: self.budget.limit}
        return {
            **asdict(self),
            "methods": list(self.methods),
            "seeds": list(self.seeds),
            "budget": budget,
        }


def compare(
    task_set: TaskSet, out: Path, settings: Settings, tell: Tell | None = None, command: str = ""
) -> dict[str, Any]:
    """Trains, measures and writes the run folder; returns what results.json holds."""
    _claim(out, task_set, settings)
    methods = list(dict.fromkeys(["single", *settings.methods]))
    starts = []
    for seed in settings.seeds:
        place, record, pretrained = _started(task_set, out, seed, settings, tell)
        starts.append((place, record))
        for name in methods:
            job = _job(task_set, out, seed, settings, place, pretrained, name, tell)
            _once(job, name)
    wait()
    results = assemble(task_set, out, methods, settings.seeds, settings.to_json(), starts, command)
    if processes().is_main_process:
        from taskgrove.measuring.report import write_report

        _keep_best(out, results, methods, settings)
        checkpoint.write_json(out / "results.json", results)
        write_report(results, out / "report.html")
    return results


def _claim(out: Path, task_set: TaskSet, settings: Settings) -> None:
    """Takes a new or empty folder, or one that the same comparison began; refuses any other."""
    asked = {**settings.to_json(), "tasks": task_set.name, "data": task_set.fingerprint()}
    marker = out / "run.json"
    if marker.exists():
        if (before := checkpoint.read_json(marker)) != asked:
            changed = [name for name in asked if before.get(name) != asked[name]]
            raise TaskgroveError(
                f"{out} holds a run with other settings ({', '.join(changed)} differ): give another"
                " --out, or delete that folder"
            )
        return
    if not processes().is_main_process:
        return
    try:
        out.mkdir(parents=True, exist_ok=True)
        if any(out.iterdir()):
            raise TaskgroveError(f"{out} is not empty and holds no run: give another --out")
        checkpoint.write_json(marker, asked)
    except OSError as error:
        raise TaskgroveError(
            f"{out} cannot be written ({error.strerror}): give another --out"
        ) from None


def _started(
    task_set: TaskSet, out: Path, seed: int, settings: Settings, tell: Tell | None
) -> tuple[Path, Record, bool]:
    def progress(what: str, done: float, losses: Mapping[str, float]) -> None:
        if tell is not None:
            tell(seed, "start", what, done, losses)

    return start(
        task_set,
        out / "work" / f"seed-{seed}" / "start",
        seed=seed,
        steps=settings.start_steps,
        options=settings.options,
        name=settings.backbone,
        progress=progress,
    )


def _job(
    task_set: TaskSet,
    out: Path,
    seed: int,
    settings: Settings,
    place: Path,
    pretrained: bool,
    method: str,
    tell: Tell | None,
) -> Job:
    def progress(what: str, done: float, losses: Mapping[str, float]) -> None:
        if tell is not None:
            tell(seed, method, what, done, losses)

    budget = settings.budget.in_passes(settings.options.batch_size)
    folder = out / "work" / f"seed-{seed}"
    return Job(task_set, place, budget, settings.options, seed, folder, pretrained, progress)


def _once(job: Job, name: str) -> None:
    """Runs a method and keeps what it found, unless an earlier run did."""
    kept = job.folder / "outcomes" / name
    if (kept / "outcome.json").exists():
        return
    outcome = METHODS[name].run(job)
    if job.progress is not None:
        job.progress("measuring", 1.0, {})
    found = {split: predict(outcome.model, job.task_set, split) for split in ("validation", "test")}
    if not processes().is_main_process:
        return
    outcome.model.save(kept / "model", {"method": name, "seed": job.seed, "version": __version__})
    for split, predictions in found.items():
        arrays = {str(n): np.ascontiguousarray(p) for n, p in enumerate(predictions.values())}
        save_file(arrays, kept / f"{split}.safetensors")
    checkpoint.write_json(kept / "outcome.json", _described(job, outcome, found["validation"]))


def _described(job: Job, outcome: Outcome, validation: dict[str, np.ndarray]) -> dict[str, Any]:
    found = scores(job.task_set, "validation", validation)
    return {
        "validation": found,
        "goodness": goodness(job.task_set, found),
        "passes": outcome.passes,
        "seconds": outcome.seconds,
        "trainable_parameters": outcome.trainable_parameters,
        "stored_parameters": size(outcome.model),
        "inference_passes": inference_passes(outcome.model, job.task_set),
        "curves": outcome.curves,
        "notes": outcome.notes,
        "scales": outcome.scales,
        "coefficients": outcome.coefficients,
    }


def _keep_best(
    out: Path, results: dict[str, Any], methods: Sequence[str], settings: Settings
) -> None:
    """Copies the model that is best on validation: best method on average, its best seed."""
    means = {name: float(np.mean(results["methods"][name]["goodness"])) for name in methods}
    best = max(means, key=lambda name: means[name])
    place = int(np.argmax(results["methods"][best]["goodness"]))
    seed = settings.seeds[place]
    source = out / "work" / f"seed-{seed}" / "outcomes" / best / "model"
    aside = out / ".model.part"
    shutil.rmtree(aside, ignore_errors=True)
    shutil.copytree(source, aside)
    shutil.rmtree(out / "model", ignore_errors=True)
    aside.rename(out / "model")
    results["best"] = {"method": best, "seed": seed, "folder": "model"}
