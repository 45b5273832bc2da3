"""Raw columns of a batch, as `Backbone.prepare` takes them; the same for training and for new rows.

text: list of str; image: uint8 [batch size size 3]; numbers: float32 [batch number], NaN where
missing; categories: a list of str or None for each column.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from taskgrove.tasks.images import some_images
from taskgrove.tasks.inputs import Inputs
from taskgrove.tasks.readers import Rows
from taskgrove.tasks.table import Table
from taskgrove.tasks.take import take
from taskgrove.tasks.targets import numbers_of


def raw(table: Table, rows: np.ndarray) -> dict[str, Any]:
    """The rows `rows` of a table, in their order."""
    found = _words(take(table.rows, rows), table.inputs)
    if table.images is not None:
        found["image"] = torch.from_numpy(np.array(table.images[rows]))
    if table.numbers is not None:
        found["numbers"] = torch.from_numpy(np.array(table.numbers[rows]))
    return found


def raw_from(rows: Rows, inputs: Inputs) -> dict[str, Any]:
    """All of `rows`, as `readers.read(path, inputs.columns)` or `readers.from_table` gave them."""
    found = _words(rows.table, inputs)
    if inputs.image is not None:
        images = some_images(rows, inputs.image, inputs.image_size)
        found["image"] = torch.from_numpy(images)
    if "table" in inputs.modalities:
        columns = [numbers_of(rows, name) for name in inputs.numbers]
        numbers = np.stack(columns, 1) if columns else np.zeros((rows.table.num_rows, 0))
        found["numbers"] = torch.from_numpy(numbers.astype(np.float32))
    return found


def slices(rows: Rows, size: int) -> list[Rows]:
    """`rows` in batches of at most `size`, in order."""
    parts = []
    for piece in rows.pieces:
        for start in range(0, piece.table.num_rows, size):
            table = piece.table.slice(start, size)
            part = replace(piece, table=table, first=piece.first + start)
            parts.append(Rows((part,)))
    return parts


def _words(columns: pa.Table, inputs: Inputs) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if inputs.text:
        texts = [columns.column(name).to_pylist() for name in inputs.text]
        found["text"] = [
            "\n".join(part or "" for part in parts) for parts in zip(*texts, strict=True)
        ]
    if inputs.numbers or inputs.categories:
        found["categories"] = [
            [value or None for value in columns.column(name).to_pylist()]
            for name in inputs.categories
        ]
    return found
