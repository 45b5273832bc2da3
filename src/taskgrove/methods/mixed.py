"""mixed: predictions for rows of several tasks, each row naming its own, in one batch.

The trunk runs once over a batch whatever tasks its rows belong to (sharing.route); so does a model
with parts of each task's own. Rows are read in batches, so a file may be larger than memory.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from taskgrove.errors import TaskgroveError, did_you_mean, listed
from taskgrove.methods.predict import no_maps, raw_rows
from taskgrove.sharing.model import MultiTaskModel
from taskgrove.sharing.route import rows_of_tasks
from taskgrove.tasks.inputs import Inputs
from taskgrove.tasks.raw import slices
from taskgrove.tasks.readers import Rows, from_table, read
from taskgrove.tasks.task import Task
from taskgrove.training.evaluate import in_user_terms
from taskgrove.training.processes import this_device

Said = tuple[str | float, dict[str, float]]  # a prediction, and the probability of each class


def common_inputs(model: MultiTaskModel) -> Inputs:
    """The columns that all tasks read; raises TaskgroveError where they differ, or are maps."""
    no_maps(model.tasks.values())
    (first, inputs), *others = model.inputs.items()
    for name, other in others:
        if other != inputs:
            raise TaskgroveError(
                f'the tasks "{first}" and "{name}" read different columns, so their rows cannot'
                " stand in one batch: predict one task at a time with --task"
            )
    return inputs


def predict_mixed(
    model: MultiTaskModel, rows: str | pa.Table, column: str, batch_size: int = 256
) -> pa.Table:
    """task, prediction and its probability (null for numbers) of each row, in the rows' order.

    `column` names each row's task; the other columns are the model's inputs.
    """
    inputs = common_inputs(model)
    columns = {**inputs.columns, column: "string"}
    source = from_table(rows, columns) if isinstance(rows, pa.Table) else read(rows, columns)
    tasks: list[str] = []
    said: list[Said] = []
    for part in slices(source, batch_size):
        names = part.table.column(column).to_pylist()
        _known(model, part, names, column)
        tasks += names
        said += say(model, part, inputs, names)
    best = [max(shares.values()) if shares else None for _, shares in said]
    return pa.table(
        {
            "task": pa.array(tasks, pa.string()),
            "prediction": pa.array([str(answer) for answer, _ in said], pa.string()),
            "probability": pa.array(best, pa.float64()),
        }
    )


def say(model: MultiTaskModel, part: Rows, inputs: Inputs, tasks: Sequence[str]) -> list[Said]:
    """The answer to each row of one batch, each for its own task."""
    device = this_device()
    model.to(device).eval()
    prepared = model.trunk(tasks[0]).prepare(raw_rows(part, inputs))
    here = rows_of_tasks(tasks, model.number).to(device)
    with torch.no_grad():
        outputs = model({name: value.to(device) for name, value in prepared.items()}, here)
    found: list[Any] = [None] * len(tasks)
    for name, output in outputs.items():
        task = model.tasks[name]
        values = in_user_terms(task, output).cpu().numpy()
        for place, value in zip(here.of(name).tolist(), values, strict=True):
            found[place] = _said(task, value)
    return found


def _said(task: Task, value: np.ndarray | np.floating) -> Said:
    if not isinstance(value, np.ndarray):
        return float(value), {}
    shares = {name: float(share) for name, share in zip(task.classes, value, strict=True)}
    if task.kind == "classes":
        return task.classes[int(value.argmax())], shares
    return ";".join(name for name, share in shares.items() if share >= 0.5), shares


def _known(model: MultiTaskModel, part: Rows, names: Sequence[str | None], column: str) -> None:
    for row, name in enumerate(names):
        if name not in model.tasks:
            got = f'names the task "{name}"' if name else f'has no task in column "{column}"'
            raise TaskgroveError(
                f"{part.where(row)} {got}; the model has {listed(model.tasks)}."
                f"{did_you_mean(name or '', model.tasks)}"
            )
