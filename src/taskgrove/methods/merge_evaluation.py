"""Each task before and after a merge: the tuned models, the base, the merged model, on test rows.

A task belongs to a tuned classifier of transformers, which brings the head. `base` and the merged
model are judged with that head on their own trunk: the tensors that were merged are replaced in a
copy of the tuned folder, which transformers then opens as any other. `unrounded` is the merge
before its numbers were rounded to the folder's format; the difference is the loss by rounding.
Every number is that of test rows; nothing is chosen by them.
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from taskgrove.errors import TaskgroveError, listed
from taskgrove.measuring import bootstrap, verdict
from taskgrove.measuring.report import write_report
from taskgrove.merging.checkpoint import config_of, open_checkpoint
from taskgrove.merging.files.card import carry
from taskgrove.merging.fit import whole
from taskgrove.merging.models import Model
from taskgrove.merging.plan import Plan
from taskgrove.merging.plan import plan as plan_of
from taskgrove.merging.stream import merge
from taskgrove.methods.classify import classify, order_of
from taskgrove.methods.results import exam, facts, machine, versions
from taskgrove.tasks.task_set import TaskSet
from taskgrove.training import checkpoint

Told = Callable[[str, float], None]  # (what, share done)


def pairs(plan: Plan, task_set: TaskSet) -> dict[str, int]:
    """{task: its tuned model}, by the folder's name or, failing that, by order; or one sentence."""
    places = [Path(place) for place in plan.recipe.tuned]
    names = list(task_set.tasks)
    by_name = {place.resolve().name: k for k, place in enumerate(places)}
    if len(names) > len(places):
        raise TaskgroveError(
            f"the tasks are {listed(names)}, the tuned models {len(places)}; expected a tuned"
            " model for each task, in the same order or in folders of the tasks' names."
        )
    if all(name in by_name for name in names):
        found = {name: by_name[name] for name in names}
    else:
        found = dict(zip(names, range(len(names)), strict=True))
    for name, k in found.items():
        order_of(task_set.tasks[name], config_of(places[k]), places[k])
        if "text" not in task_set.table(name).inputs.modalities:
            raise TaskgroveError(f'task "{name}" has no text; expected rows of text to classify.')
    return found


def evaluate(
    plan: Plan, out: Path, task_set: TaskSet, command: str = "", told: Told | None = None
) -> dict[str, Any]:
    """Judges all, writes `OUT/evaluation.json` and `OUT/report.html`; the results."""
    models = pairs(plan, task_set)
    with TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.evaluation.") as aside:
        trunks: dict[str, Model | None] = {"single": None, plan.recipe.method: open_checkpoint(out)}
        if plan.reading.base is not None:
            trunks["base"] = plan.reading.base
        if "F32" not in (found := set(plan.dtypes.values())) and "F64" not in found:
            exact = replace(plan.recipe, dtype="fp32")
            merge(plan_of(exact, plan.reading.threads), Path(aside) / "unrounded")
            trunks["unrounded"] = open_checkpoint(Path(aside) / "unrounded")
        answers: dict[str, list[dict[str, np.ndarray]]] = {name: [{}] for name in trunks}
        jobs = [(task, k, who) for task, k in models.items() for who in trunks]
        for n, (task, k, who) in enumerate(jobs):
            if told is not None:
                told(f"{task}: {who}", n / len(jobs))
            with _grafted(plan, k, trunks[who], Path(aside) / "grafted") as folder:
                answers[who][0][task] = classify(folder, task_set, task)
    results = _results(plan, task_set, answers, command)
    checkpoint.write_json(out / "evaluation.json", results)
    write_report(results, out / "report.html")
    return results


@contextmanager
def _grafted(plan: Plan, k: int, trunk: Model | None, aside: Path) -> Iterator[Path]:
    """The k-th tuned folder with the merged tensors from `trunk`; itself where that is None."""
    source = Path(plan.recipe.tuned[k])
    if trunk is None:
        yield source
        return
    aside.mkdir()
    carry(source, aside, None)
    own = plan.reading.tuned[k]
    tensors = {}
    for name, entry in own.entries.items():
        model = trunk if name in plan.parameters else own
        tensors[name] = np.asarray(whole(model, name)).reshape(entry.shape)
    save_file(tensors, aside / "model.safetensors", {"format": "pt"})
    try:
        yield aside
    finally:
        shutil.rmtree(aside)


def _results(
    plan: Plan, task_set: TaskSet, answers: dict[str, Any], command: str
) -> dict[str, Any]:
    exams = {name: exam(task_set, name) for name in task_set.tasks}
    standings = bootstrap(exams, answers)
    stored = sum(entry.size for entry in plan.reading.layout.entries.values())
    heads = {name: plan.reading.tuned[k] for name, k in pairs(plan, task_set).items()}
    own = sum(
        e.size for m in heads.values() for n, e in m.entries.items() if n not in plan.parameters
    )
    return {
        "format": 1,
        "versions": versions(),
        "machine": machine(),
        "command": command,
        "config": {"tasks": task_set.name, "merge": plan.recipe.method},
        "tasks": {name: facts(task_set, name) for name in task_set.tasks},
        "methods": {
            name: _row(
                plan,
                name,
                standings[name],
                len(heads),
                len(heads) * stored if name == "single" else stored + own,
            )
            for name in answers
        },
        "notes": [*task_set.notes, *_rounding(plan, standings)],
    }


def _row(plan: Plan, name: str, standing: Any, tasks: int, stored: int) -> dict[str, Any]:
    label, sentence = verdict(
        name,
        standing.delta_m_mean,
        standing.delta_m_interval,
        tasks=tasks - len(standing.left_out),
        seeds=1,
        left_out=standing.left_out,
    )
    if name == "single":
        label, sentence = "reference", f"single: the tuned models, {tasks} tasks"
    merged = name == plan.recipe.method
    return {
        "tasks": {
            task: {"test": scores, "test_interval": list(standing.intervals[task])}
            for task, scores in standing.scores.items()
        },
        "delta_m": standing.delta_m,
        "delta_m_mean": standing.delta_m_mean,
        "delta_m_interval": list(standing.delta_m_interval),
        "verdict": label,
        "sentence": sentence,
        "stored_parameters": stored,
        "inference_passes": 1,
        **({"coefficients": coefficients(plan)} if merged and coefficients(plan) else {}),
    }


def coefficients(plan: Plan) -> dict[str, Any] | None:
    """What each model counts in each tensor, for the heat map; None where a method has no scale."""
    tensors, columns = list(plan.parameters), []
    for name in tensors:
        chosen = plan.parameters[name]
        found = next(
            (v for n in ("scale", "weights") if (v := getattr(chosen, n, None)) is not None), None
        )
        if found is None:
            return None
        columns.append(np.broadcast_to(np.asarray(found, float), len(plan.recipe.tuned)).tolist())
    names = [Path(place).name for place in plan.recipe.tuned]
    return {"tasks": names, "tensors": tensors, "values": np.array(columns).T.tolist()}


def _rounding(plan: Plan, standings: dict[str, Any]) -> list[str]:
    """What rounding to the folder's number format cost, in the tasks' metrics."""
    if "unrounded" not in standings:
        return ["The merged model is in the format it was computed in: nothing was rounded away."]
    kept, exact = standings[plan.recipe.method].scores, standings["unrounded"].scores
    lost = {task: exact[task][0] - kept[task][0] for task in kept}
    words = ", ".join(f"{task} {loss:+.4f}" for task, loss in lost.items())
    return [f"Lost by rounding (unrounded minus written, in each task's metric): {words}."]
