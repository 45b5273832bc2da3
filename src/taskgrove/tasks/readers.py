"""Any source of rows as an Arrow table of only the wanted columns, typed by role.

A source up to the limit stays in memory; a larger one is streamed once into the cache and
memory-mapped.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa

from taskgrove.errors import TaskgroveError, did_you_mean, listed
from taskgrove.tasks.cache import identity, kept_table, memory_limit
from taskgrove.tasks.csv_file import csv_batches
from taskgrove.tasks.hugging_face import (
    HUB,
    dataset_parts,
    is_hub_like,
    is_saved_dataset,
    table_batches,
)
from taskgrove.tasks.image_folder import first_data, image_parts, is_image
from taskgrove.tasks.json_lines import json_batches
from taskgrove.tasks.parquet import parquet_batches
from taskgrove.tasks.split_names import SPLITS, split_name

Columns = dict[str, str]  # a role (see `columns`) for each column
FILES: dict[str, Callable[[Path, Columns], Iterator[pa.RecordBatch]]] = {
    ".csv": csv_batches,
    ".csv.gz": csv_batches,
    ".tsv": csv_batches,
    ".tsv.gz": csv_batches,
    ".parquet": parquet_batches,
    ".pq": parquet_batches,
    ".jsonl": json_batches,
    ".jsonl.gz": json_batches,
    ".ndjson": json_batches,
    ".json": json_batches,
    ".json.gz": json_batches,
}


@dataclass(frozen=True)
class Piece:
    """Rows from one place. `split` is given by the source, if at all."""

    name: str  # in messages
    folder: Path  # where relative image paths start
    table: pa.Table
    split: str | None = None
    first: int = 0  # the number of its first row in the source


@dataclass(frozen=True)
class Rows:
    """The pieces of one source, one after the other."""

    pieces: tuple[Piece, ...]
    notes: tuple[str, ...] = field(default=())

    @cached_property
    def table(self) -> pa.Table:
        """All rows; nothing is copied."""
        return pa.concat_tables([piece.table for piece in self.pieces])

    @property
    def given(self) -> np.ndarray | None:
        """int8 [row]: the split that the source gives, or None."""
        if all(piece.split is None for piece in self.pieces):
            return None
        codes = [SPLITS.index(piece.split or "train") for piece in self.pieces]
        return np.repeat(np.array(codes, np.int8), [p.table.num_rows for p in self.pieces])

    @property
    def name(self) -> str:
        """The source in messages."""
        return self.pieces[0].name if len(self.pieces) == 1 else listed(p.name for p in self.pieces)

    def where(self, row: int) -> str:
        """A row as its user counts: from 1, in its own file, after the header."""
        for piece in self.pieces:
            if row < piece.table.num_rows:
                return f"row {piece.first + row + 1} of {piece.name}"
            row -= piece.table.num_rows
        raise IndexError(row)


def read(
    data: str | dict[str, str],
    columns: Columns,
    folder: Path = Path(),
    limit: int | None = None,
) -> Rows:
    """The wanted columns of `data`, a path relative to `folder` or a path for each split.

    `limit` in bytes on disk; default: `cache.memory_limit`.
    """
    limit = memory_limit() if limit is None else limit
    if isinstance(data, str):
        return _read_one(data, columns, folder, limit)
    pieces: list[Piece] = []
    for split, path in data.items():
        rows = _read_one(path, columns, folder, limit)
        if rows.given is not None:
            raise TaskgroveError(
                f"{path} already holds several splits; name it alone (data: {path}), not under "
                f'"{split}"'
            )
        pieces += [Piece(p.name, p.folder, p.table, split) for p in rows.pieces]
    return Rows(tuple(pieces))


def find(data: str, folder: Path) -> Path:
    """The path that a user wrote, which must exist."""
    path = folder / Path(data).expanduser()
    if path.exists():
        return path
    near, place = path.parent, path.parent
    if not place.is_dir():
        raise TaskgroveError(f'"{data}" does not exist: there is no folder {place}')
    names = sorted(p.name for p in near.iterdir() if not p.name.startswith("."))
    hint = did_you_mean(path.name, names)
    raise TaskgroveError(f'"{data}" does not exist in {place.resolve()}.{hint}')


def kind_of(path: Path) -> str:
    """A key of `FILES`, or one of: saved, hub, images, parquet folder."""
    if path.is_dir():
        if is_saved_dataset(path):
            return "saved"
        if is_hub_like(path):
            return "hub"
        if first := first_data(path):
            return "images" if is_image(first) else "parquet folder"
        raise TaskgroveError(
            f"folder {path.name} holds no dataset: neither Parquet files, nor images in a folder "
            "for each class, nor a dataset saved by Hugging Face datasets"
        )
    kind = next(
        (k for k in sorted(FILES, key=len, reverse=True) if path.name.lower().endswith(k)), None
    )
    if kind is None:
        raise TaskgroveError(
            f"{path.name} has an unknown extension; readable are {', '.join(FILES)}, folders of "
            "images or Parquet files, and Hugging Face dataset folders"
        )
    return kind


def _read_one(data: str, columns: Columns, folder: Path, limit: int) -> Rows:
    if data.startswith(HUB):
        return _from_parts(dataset_parts(data), columns, data, folder)
    path = find(data, folder)
    kind = kind_of(path)
    if kind in ("saved", "hub"):
        return _from_parts(dataset_parts(path), columns, path.name, path)
    if kind == "images":
        return _from_parts(image_parts(path), columns, path.name, path)
    reader = FILES.get(kind, parquet_batches)
    files = [path] if path.is_file() else sorted(path.rglob("*.parquet"))
    if sum(file.stat().st_size for file in files) > limit:
        name = identity(files, path.resolve(), columns)
        table = kept_table(f"rows-{name}", lambda: reader(path, columns))
    else:
        table = pa.Table.from_batches(list(reader(path, columns)))
    place = path if path.is_dir() else path.parent
    return Rows((Piece(path.name, place, table),))


def _from_parts(
    parts: dict[str | None, pa.Table], columns: Columns, name: str, folder: Path
) -> Rows:
    """One piece a split; a part whose name means no split is left out and told."""
    pieces, unknown = [], []
    for part, table in parts.items():
        split = None if part is None else split_name(part)
        if part is not None and split is None:
            unknown.append(part)
            continue
        shown = name if part is None else f"{name} ({part})"
        batches = list(table_batches(table, columns, shown))
        pieces.append(Piece(shown, folder, pa.Table.from_batches(batches), split))
    if not pieces:
        raise TaskgroveError(
            f"{name} has the parts {listed(unknown)}, none of which is train, validation or test"
        )
    note = f"{name}: the parts {listed(unknown)} are not used; they are no split's name"
    return Rows(tuple(pieces), (note,) if unknown else ())


def from_table(
    table: pa.Table, columns: Columns, name: str = "rows", folder: Path = Path()
) -> Rows:
    """The same for a table in memory; relative image paths start at `folder`."""
    batches = list(table_batches(table, columns, name))
    return Rows((Piece(name, folder, pa.Table.from_batches(batches)),))
