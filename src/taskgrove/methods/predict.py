"""predict: a saved model on new rows.

In Python: `taskgrove.predict(model, "topic", "rows.csv")` gives the predictions [row class] or
[row]; `predict_file` writes them beside each other with their names. Rows are read in batches, so
a file may be larger than memory; no labels are looked for.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from taskgrove.errors import TaskgroveError
from taskgrove.sharing.folder import load
from taskgrove.sharing.model import MultiTaskModel, known_task
from taskgrove.sharing.route import route
from taskgrove.tasks.image_folder import is_image
from taskgrove.tasks.images import decode, place_of
from taskgrove.tasks.inputs import Inputs
from taskgrove.tasks.raw import raw_from, slices
from taskgrove.tasks.readers import Rows, from_table, kind_of, read
from taskgrove.tasks.task import MAPS, Task
from taskgrove.training.evaluate import in_user_terms
from taskgrove.training.processes import this_device

WRITERS = (".csv", ".parquet", ".jsonl")


def predict(
    model: MultiTaskModel, task: str | None, rows: str | Path | pa.Table, batch_size: int = 256
) -> np.ndarray:
    """Predictions of one task: probabilities [row class], or numbers [row] in the user's unit; or
    maps, as `training.evaluate.map_in_user_terms` says.

    `rows` is a path (CSV, Parquet, JSONL, image folder) or a table with the model's input columns.
    """
    known = known_task(model, task)
    source = _source(rows, model.inputs[known.name])
    return np.concatenate([*_batches(model, known, source, batch_size)] or [_nothing(known)])


def predict_file(
    folder: Path,
    rows: Path,
    task: str | None,
    out: Path | None,
    batch_size: int = 256,
    task_column: str | None = None,
) -> None:
    """Writes a prediction for each row: a file by its ending, or CSV on the screen.

    With `task_column` each row names its own task (see mixed).
    """
    if task is not None and task_column is not None:
        raise TaskgroveError("give --task for all rows, or --task-column, not both")
    if batch_size < 1:
        raise TaskgroveError(f"--batch-size is {batch_size}: it must be 1 or more")
    if out is not None:
        _check_place(out, rows)
    model = load(folder)
    if task_column is not None:
        from taskgrove.methods.mixed import predict_mixed

        table = predict_mixed(model, str(rows), task_column, batch_size)
    else:
        known = known_task(model, task)
        no_maps([known])
        table = named(known, predict(model, known.name, rows, batch_size))
        if (files := _pictures(rows, model.inputs[known.name])) is not None:
            table = table.add_column(0, "file", [files])
    if out is None:
        with os.fdopen(os.dup(1), "wb") as screen:
            _write_csv(table, pa.PythonFile(screen, mode="w"))
        return
    aside = out.with_name(f".{out.name}.part")
    try:
        with aside.open("wb") as file:
            _write(table, pa.PythonFile(file, mode="w"), out.suffix)
        os.replace(aside, out)
    except OSError as error:
        with suppress(OSError):
            aside.unlink()
        raise TaskgroveError(
            f"{out} cannot be written ({error.strerror}): give another --out"
        ) from None


def no_maps(tasks: Iterable[Task]) -> None:
    """Refuses tasks whose predictions fit no cell of a table."""
    for task in tasks:
        if task.kind in MAPS:
            raise TaskgroveError(
                f'task "{task.name}" predicts a map ({task.kind}), which no cell of a table holds: '
                "use taskgrove.predict in Python, which returns arrays"
            )


def _check_place(out: Path, rows: Path) -> None:
    """Refuses an output that cannot be, before anything is computed."""
    if out.suffix not in WRITERS:
        raise TaskgroveError(f'--out "{out}" must end in {", ".join(WRITERS)}')
    if not out.parent.is_dir():
        raise TaskgroveError(f"--out {out}: there is no folder {out.parent}; make it first")
    if out.is_dir() or (rows.exists() and out.exists() and out.samefile(rows)):
        what = "a folder" if out.is_dir() else "the file of the rows"
        raise TaskgroveError(f"--out {out} is {what}: name a new file")


def named(task: Task, found: np.ndarray) -> pa.Table:
    """Predictions as columns: `prediction`, and `p(CLASS)` for each class."""
    if task.kind == "number":
        return pa.table({"prediction": found})
    if task.kind == "classes":
        best = [task.classes[n] for n in found.argmax(-1)]
    else:
        chosen = (np.flatnonzero(row >= 0.5) for row in found)
        best = [";".join(task.classes[n] for n in row) for row in chosen]
    columns = {f"p({name})": found[:, n] for n, name in enumerate(task.classes)}
    return pa.table({"prediction": pa.array(best, pa.string()), **columns})


def _pictures(rows: str | Path | pa.Table, inputs: Inputs) -> list[str] | None:
    """The images of a folder, in any sub-folder, sorted; None where `rows` is something else."""
    if inputs.image is None or isinstance(rows, pa.Table) or not Path(rows).is_dir():
        return None
    if kind_of(Path(rows)) != "images":
        return None
    places = [(Path(place), names) for place, _, names in os.walk(rows, followlinks=True)]
    files = [(place / name).relative_to(rows) for place, names in places for name in names]
    return sorted(
        file.as_posix()
        for file in files
        if is_image(file.name) and not any(part.startswith(".") for part in file.parts)
    )


def _source(rows: str | Path | pa.Table, inputs: Inputs) -> Rows:
    """The input columns of new rows; a folder's images need no folder for each class."""
    if isinstance(rows, pa.Table):
        return from_table(rows, inputs.columns)
    if (files := _pictures(rows, inputs)) is not None:
        table = pa.table({inputs.image: pa.array(files, pa.string())})
        return from_table(table, inputs.columns, Path(rows).name, Path(rows))
    return read(str(rows), inputs.columns)


def raw_rows(part: Rows, inputs: Inputs) -> dict[str, Any]:
    """Raw columns of a few rows; an image that does not open is named as its user knows it."""
    try:
        return raw_from(part, inputs)
    except TaskgroveError:
        images = [] if inputs.image is None else part.table.column(inputs.image).to_pylist()
        for row, value in enumerate(images):
            if (reason := _trouble(value, part.pieces[0].folder)) is not None:
                path = value["path"] if isinstance(value, dict) else value
                name = f'"{path}" ' if isinstance(path, str) else ""
                raise TaskgroveError(
                    f"the image {name}in {part.where(row)} cannot be opened: {reason}"
                ) from None
        raise


def _trouble(value: Any, folder: Path) -> str | None:
    """Why an image cell does not open; None where it does."""
    try:
        found = place_of(value, folder)
    except OSError as error:
        return str(error)
    try:
        decode(found.read_bytes() if isinstance(found, Path) else found, 8)
    except Exception:  # Pillow's readers raise many kinds
        return "it is damaged, or no image"
    return None


def _batches(
    model: MultiTaskModel, task: Task, source: Rows, batch_size: int
) -> Iterator[np.ndarray]:
    device, inputs = this_device(), model.inputs[task.name]
    model.to(device).eval()
    for part in slices(source, batch_size):
        prepared = model.trunk(task.name).prepare(raw_rows(part, inputs))
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
