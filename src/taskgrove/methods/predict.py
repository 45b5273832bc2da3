"""predict: a saved model on new rows.

In Python: `taskgrove.predict(model, "topic", "rows.csv")` gives the predictions [row class] or
[row]; `predict_file` writes them beside each other with their names. Rows are read in batches, so
a file may be larger than memory; no labels are looked for.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from taskgrove.errors import TaskgroveError
from taskgrove.sharing.model import MultiTaskModel, known_task, load
from taskgrove.sharing.route import route
from taskgrove.tasks.raw import raw_from, slices
from taskgrove.tasks.readers import Rows, from_table, read
from taskgrove.tasks.task import Task
from taskgrove.training.evaluate import in_user_terms
from taskgrove.training.processes import this_device

WRITERS = (".csv", ".parquet", ".jsonl")


def predict(
    model: MultiTaskModel, task: str | None, rows: str | Path | pa.Table, batch_size: int = 256
) -> np.ndarray:
    """Predictions of one task: probabilities [row class], or numbers [row] in the user's unit.

    `rows` is a path (CSV, Parquet, JSONL, image folder) or a table with the model's input columns.
    """
    known = known_task(model, task)
    columns = model.inputs[known.name].columns
    source = from_table(rows, columns) if isinstance(rows, pa.Table) else read(str(rows), columns)
    return np.concatenate([*_batches(model, known, source, batch_size), _nothing(known)])


def predict_file(
    folder: Path, rows: Path, task: str | None, out: Path | None, batch_size: int = 256
) -> None:
    """Writes a prediction for each row: a file by its ending, or CSV on the screen."""
    if out is not None and out.suffix not in WRITERS:
        raise TaskgroveError(f'--out "{out}" must end in {", ".join(WRITERS)}')
    if batch_size < 1:
        raise TaskgroveError(f"--batch-size is {batch_size}: it must be 1 or more")
    model = load(folder)
    known = known_task(model, task)
    table = named(known, predict(model, known.name, rows, batch_size))
    if out is None:
        _write_csv(table, pa.PythonFile(os.fdopen(os.dup(1), "wb"), mode="w"))
        return
    aside = out.with_name(f".{out.name}.part")
    try:
        with pa.OSFile(str(aside), "wb") as file:
            _write(table, file, out.suffix)
        os.replace(aside, out)
    except OSError as error:
        raise TaskgroveError(f"{out} cannot be written ({error})") from None


def named(task: Task, found: np.ndarray) -> pa.Table:
    """Predictions as columns: `prediction`, and `p(CLASS)` for each class."""
    if task.kind == "number":
        return pa.table({"prediction": found})
    if task.kind == "classes":
        best = [task.classes[n] for n in found.argmax(-1)]
    else:
        chosen = (np.flatnonzero(row > 0.5) for row in found)
        best = [";".join(task.classes[n] for n in row) for row in chosen]
    columns = {f"p({name})": found[:, n] for n, name in enumerate(task.classes)}
    return pa.table({"prediction": pa.array(best, pa.string()), **columns})


def _batches(
    model: MultiTaskModel, task: Task, source: Rows, batch_size: int
) -> Iterator[np.ndarray]:
    device, inputs = this_device(), model.inputs[task.name]
    model.to(device).eval()
    for part in slices(source, batch_size):
        prepared = model.trunk(task.name).prepare(raw_from(part, inputs))
        places = torch.arange(part.table.num_rows, device=device)
        with torch.no_grad():
            on_device = {name: value.to(device) for name, value in prepared.items()}
            output = model(on_device, route({task.name: places}))[task.name]
        yield in_user_terms(task, output).cpu().numpy()


def _nothing(task: Task) -> np.ndarray:
    shape = (0,) if task.kind == "number" else (0, len(task.classes))
    return np.zeros(shape, np.float32)


def _write(table: pa.Table, file: pa.NativeFile, suffix: str) -> None:
    if suffix == ".parquet":
        from pyarrow import parquet

        parquet.write_table(table, file)
    elif suffix == ".csv":
        _write_csv(table, file)
    else:
        import json

        for row in table.to_pylist():
            file.write((json.dumps(row) + "\n").encode())


def _write_csv(table: pa.Table, file: pa.NativeFile) -> None:
    from pyarrow import csv

    csv.write_csv(table, file)
