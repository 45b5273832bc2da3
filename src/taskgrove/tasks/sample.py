"""The first rows of a source, all columns, as plain Python values: to look at, not to train on."""

import re
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from taskgrove.errors import TaskgroveError
from taskgrove.tasks.csv_file import csv_head
from taskgrove.tasks.hugging_face import dataset_parts
from taskgrove.tasks.image_folder import image_parts
from taskgrove.tasks.json_lines import json_rows
from taskgrove.tasks.parquet import class_names, parquet_head
from taskgrove.tasks.readers import find, kind_of
from taskgrove.tasks.split_names import split_name

ROWS = 10_000


@dataclass(frozen=True)
class Sample:
    """Columns of equal length; a missing value is None."""

    path: Path
    columns: dict[str, list[Any]]
    whole: bool  # whether these are all rows
    images: bool = False  # an image folder


def sample(path: Path, rows: int = ROWS) -> Sample:
    """At most `rows` rows of a file, a folder of images or a dataset folder."""
    path = find(str(path), Path())
    kind = kind_of(path)
    if kind == "images":
        return _images(path)
    if kind.startswith((".csv", ".tsv")):
        columns = {
            name: [cell if cell.strip() else None for cell in cells]
            for name, cells in csv_head(path, rows + 1).items()
        }
    elif kind in (".parquet", ".pq", "parquet folder"):
        columns = _arrow(parquet_head(path, rows + 1))
    elif kind in ("saved", "hub"):
        parts = dataset_parts(path)
        columns = _arrow(parts.get("train", next(iter(parts.values()))).slice(0, rows + 1))
    else:
        objects = list(islice(json_rows(path), rows + 1))
        names = dict.fromkeys(name for row in objects for name in row)
        columns = {name: [row.get(name) for row in objects] for name in names}
    found = len(next(iter(columns.values()), []))
    if not found:
        raise TaskgroveError(f"{path.name} has no rows")
    return Sample(path, {name: values[:rows] for name, values in columns.items()}, found <= rows)


def grouped(samples: list[Sample]) -> list[dict[str | None, Sample]]:
    """Files called train, validation, test with the same columns are one source."""
    splits = [_split_of(s.path) for s in samples]
    alike = len({tuple(s.columns) for s in samples}) == 1
    differ = None not in splits and len(set(splits)) == len(splits) and "train" in splits
    if len(samples) > 1 and alike and differ:
        return [dict(zip(splits, samples, strict=True))]
    return [{None: s} for s in samples]


def _split_of(path: Path) -> str | None:
    return split_name(re.split(r"[-_.]", path.name.split(".")[0])[-1])


def _images(path: Path) -> Sample:
    parts = image_parts(path)
    labels = [label for part in parts.values() for label in part.column("label").to_pylist()]
    return Sample(path, {"label": labels}, True, True)


def _arrow(table: pa.Table) -> dict[str, list[Any]]:
    names = class_names(table.schema)
    columns = {name: table.column(name).to_pylist() for name in table.column_names}
    for name, words in names.items():
        columns[name] = [
            None if code is None or code < 0 else words[code] for code in columns[name]
        ]
    return columns
