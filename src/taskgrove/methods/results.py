"""results.json: what a comparison found, from the outcomes that it kept.

Scores over seeds, intervals by the paired bootstrap over test rows and seeds, delta-m against
`single`, the verdict and the cost of each method, and all that is needed to repeat the run.
"""

import os
import platform
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from taskgrove import __version__
from taskgrove.measuring import Exam, Standing, bootstrap, metric_for, verdict
from taskgrove.sharing.model import MultiTaskModel
from taskgrove.tasks.task_set import TaskSet
from taskgrove.training import checkpoint
from taskgrove.training.evaluate import truth
from taskgrove.training.processes import this_device


def assemble(
    task_set: TaskSet,
    out: Path,
    methods: Sequence[str],
    seeds: Sequence[int],
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """Reads every outcome below `out` and measures; trains nothing."""
    work = [out / "work" / f"seed-{seed}" for seed in seeds]
    kept = {name: [folder / "outcomes" / name for folder in work] for name in methods}
    starts = [checkpoint.read_json(folder / "start" / "outcome.json") for folder in work]
    exams = {name: exam(task_set, name) for name in task_set.tasks}
    answers = {name: [_answers(task_set, f) for f in folders] for name, folders in kept.items()}
    standings = bootstrap(exams, answers)
    rows = {}
    for name, folders in kept.items():
        outcomes = [checkpoint.read_json(folder / "outcome.json") for folder in folders]
        rows[name] = _row(task_set, name, standings[name], outcomes, seeds)
    return {
        "format": 1,
        "created": time.strftime("%Y-%m-%d %H:%M:%S"),
        "versions": versions(),
        "machine": machine(),
        "config": {"tasks": task_set.name, **settings},
        "tasks": {name: facts(task_set, name) for name in task_set.tasks},
        "methods": rows,
        "start": {
            "passes": [start["passes"] for start in starts],
            "seconds": [start["seconds"] for start in starts],
            "tasks": {
                task: {"test": [start["test"][task] for start in starts]} for task in task_set.tasks
            },
        },
        "notes": [*task_set.notes, *_few(seeds)],
    }


def _few(seeds: Sequence[int]) -> list[str]:
    """What an interval from few seeds is worth (see measuring/draws)."""
    if len(seeds) == 1:
        return ["One seed: the intervals cover test rows only, not the luck of training."]
    if len(seeds) == 2:
        return [
            "Two seeds: where seeds differ much the intervals are too narrow; three are better."
        ]
    return []


def exam(task_set: TaskSet, name: str) -> Exam:
    """The test rows of a task as the bootstrap wants them."""
    task = task_set.tasks[name]
    target = truth(task_set, name, task_set.rows(name, "test"))
    keys = task_set.key_groups(name, "test")
    return Exam(metric_for(task.kind, task.metric), target, keys, str(task.table))


def _answers(task_set: TaskSet, folder: Path) -> dict[str, np.ndarray]:
    arrays = load_file(folder / "test.safetensors")
    return {name: arrays[str(number)] for number, name in enumerate(task_set.tasks)}


def _row(
    task_set: TaskSet,
    name: str,
    standing: Standing,
    outcomes: list[dict[str, Any]],
    seeds: Sequence[int],
) -> dict[str, Any]:
    counted = len(task_set.tasks) - len(standing.left_out)
    label, sentence = verdict(
        name,
        standing.delta_m_mean,
        standing.delta_m_interval,
        tasks=counted,
        seeds=len(seeds),
        left_out=standing.left_out,
    )
    if name == "single":
        label, sentence = "reference", f"single: one model per task, {counted} tasks"
    first = outcomes[0]
    balance = [
        {"seed": seed, "points": outcome["balance"]}
        for seed, outcome in zip(seeds, outcomes, strict=True)
        if outcome["balance"]
    ]
    return {
        "tasks": {
            task: {
                "validation": [outcome["validation"][task] for outcome in outcomes],
                "test": standing.scores[task],
                "test_interval": list(standing.intervals[task]),
            }
            for task in task_set.tasks
        },
        "goodness": [outcome["goodness"] for outcome in outcomes],
        "delta_m": standing.delta_m,
        "delta_m_mean": standing.delta_m_mean,
        "delta_m_interval": list(standing.delta_m_interval),
        "verdict": label,
        "sentence": sentence,
        "trainable_parameters": first["trainable_parameters"],
        "stored_parameters": first["stored_parameters"],
        "own_parameters": first.get("own_parameters"),
        "inference_passes": first["inference_passes"],
        "train_seconds": [outcome["seconds"] for outcome in outcomes],
        "passes": [outcome["passes"] for outcome in outcomes],
        "curves": [
            {"seed": seed, **curve}
            for seed, outcome in zip(seeds, outcomes, strict=True)
            for curve in outcome["curves"]
        ],
        "notes": list(dict.fromkeys(note for outcome in outcomes for note in outcome["notes"])),
        "scales": {
            f"{name}, seed {seed}": value
            for seed, outcome in zip(seeds, outcomes, strict=True)
            for name, value in outcome["scales"].items()
        },
        **({} if first["coefficients"] is None else {"coefficients": first["coefficients"]}),
        **({"balance": balance} if balance else {}),
    }


def facts(task_set: TaskSet, name: str) -> dict[str, Any]:
    """What the report says of a task."""
    task = task_set.tasks[name]
    return {
        "kind": task.kind,
        "metric": task.metric,
        "higher_is_better": metric_for(task.kind, task.metric).higher_is_better,
        "classes": len(task.classes),
        "rows": {s: len(task_set.rows(name, s)) for s in ("train", "validation", "test")},
    }


def inference_passes(model: MultiTaskModel, task_set: TaskSet) -> float:
    """Trunk passes for one test row with all the tasks that its table has, on average."""
    passes = rows = 0
    for table in range(len(task_set.tables)):
        names = [name for name, task in task_set.tasks.items() if task.table == table]
        if names:
            count = len(np.unique(np.concatenate([task_set.rows(n, "test") for n in names])))
            passes += count * len({model.trunk_of[name] for name in names})
            rows += count
    return passes / rows


def versions() -> dict[str, str]:
    """Of what computes: taskgrove, Python, torch, transformers, numpy."""
    names = ("torch", "transformers", "accelerate", "numpy")
    return {
        "taskgrove": __version__,
        "python": platform.python_version(),
        **{n: version(n) for n in names},
    }


def machine() -> str:
    """Cores, architecture and device."""
    return f"{os.cpu_count()} cores, {platform.machine()}, {this_device()}"
