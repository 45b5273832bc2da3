"""Table: the rows that several tasks share, with their inputs made ready and a split for each."""

# pyright: reportAttributeAccessIssue=false
# pyarrow.compute makes its functions when it is imported
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from taskgrove.errors import TaskgroveError
from taskgrove.tasks.cache import nameless_array
from taskgrove.tasks.content import combine, text_digests, value_digests
from taskgrove.tasks.images import Progress, open_images
from taskgrove.tasks.inputs import Inputs, merge_roles
from taskgrove.tasks.readers import Rows, read
from taskgrove.tasks.schema import DEFAULT_SPLIT, Fractions
from taskgrove.tasks.split_names import SPLITS
from taskgrove.tasks.splits import LEFT_OUT, carve, digests, named_split, torn_key
from taskgrove.tasks.targets import numbers_of


@dataclass(frozen=True)
class Origin:
    """Where a table comes from; tasks with equal origins share one table."""

    data: str | tuple[tuple[str, str], ...]
    inputs: Inputs
    key: str | None
    split: str | Fractions | None
    skip: bool  # leave out rows with an unreadable image


@dataclass(frozen=True)
class Table:
    """One row carries the labels of all tasks of the table. Arrays run over its rows."""

    name: str
    rows: pa.Table  # the text and category columns
    split: np.ndarray  # int8: 0 train, 1 validation, 2 test, -1 left out
    inputs: Inputs
    folder: Path  # where relative paths of its images start
    numbers: np.ndarray | None  # float32 [row number]
    images: np.ndarray | None  # uint8 [row size size 3], perhaps memory-mapped
    groups: np.ndarray  # uint64: equal for rows that agree on the key
    content: np.ndarray  # uint64: equal for rows with the same inputs

    def __len__(self) -> int:
        return len(self.split)


def read_origin(origin: Origin, targets: dict[str, str], folder: Path, limit: int) -> Rows:
    """The rows of an origin with every column that its tasks need; `targets` is column to role."""
    data = origin.data if isinstance(origin.data, str) else dict(origin.data)
    others = {} if origin.key is None else {origin.key: "string"}
    if isinstance(origin.split, str):
        others[origin.split] = "string"
    return read(data, merge_roles(origin.inputs.columns, others, targets), folder, limit)


def build_table(
    origin: Origin, rows: Rows, progress: Progress | None, limit: int
) -> tuple[Table, frozenset[int], list[str]]:
    """The table, which of its splits a hash made, and notes."""
    inputs, notes = origin.inputs, list(rows.notes)
    content, numbers, images = [], None, None
    bad = np.zeros(0, np.int64)
    if inputs.text:
        content.append(text_digests([rows.table.column(name) for name in inputs.text]))
        notes += _empty_texts(rows, inputs)
    if inputs.numbers or inputs.categories:
        numbers = _numbers(rows, inputs, limit)
        categories = [rows.table.column(name) for name in inputs.categories]
        content.append(value_digests(numbers, categories))
    if inputs.image is not None:
        images, digest, bad = open_images(
            rows, inputs.image, inputs.image_size, origin.skip, progress, limit
        )
        content.append(digest)
        if len(bad):
            notes.append(
                f"{rows.name}: {len(bad)} rows left out, their images cannot be opened "
                f"(on_unreadable: skip); the first is {rows.where(int(bad[0]))}"
            )
    same = content[0] if len(content) == 1 else combine(content)
    groups = same if origin.key is None else _keys(rows, origin.key)
    split, cut = _split(origin, rows, groups, bad)
    kept = rows.table.select(list(dict.fromkeys((*inputs.text, *inputs.categories))))
    folder = rows.pieces[0].folder
    table = Table(rows.name, kept, split, inputs, folder, numbers, images, groups, same)
    return table, cut, notes


def _split(
    origin: Origin, rows: Rows, groups: np.ndarray, bad: np.ndarray
) -> tuple[np.ndarray, frozenset[int]]:
    given = rows.given
    if isinstance(origin.split, str):
        if given is not None:
            raise TaskgroveError(
                f'{rows.name}: "split: {origin.split}" names a column, but the files are already '
                "split; give one of the two"
            )
        given = named_split(rows.table.column(origin.split), origin.split, rows.name)
    fractions = origin.split if isinstance(origin.split, Fractions) else DEFAULT_SPLIT
    split, cut = carve(given, groups, fractions.validation, fractions.test)
    split[bad] = LEFT_OUT
    torn = None if origin.key is None or given is None else torn_key(groups, given)
    if torn and origin.key is not None and given is not None:
        value = rows.table.column(origin.key)[torn[0]].as_py()
        sides = " and in ".join(f"{SPLITS[given[row]]} ({rows.where(row)})" for row in torn)
        raise TaskgroveError(
            f'the key "{value}" (column "{origin.key}") is in {sides}; put all its rows in one '
            "split, or leave out the key"
        )
    return split, cut


def _keys(rows: Rows, key: str) -> np.ndarray:
    column = rows.table.column(key)
    empty = np.asarray(pc.fill_null(pc.equal(pc.utf8_trim_whitespace(column), ""), True).to_numpy())
    if empty.any():
        row = rows.where(int(np.flatnonzero(empty)[0]))
        raise TaskgroveError(
            f'the key column "{key}" is empty in {empty.sum()} rows, first in {row}; fill it in, '
            "or leave out the key"
        )
    parts = []
    for chunk in column.chunks:
        encoded = chunk.dictionary_encode()
        codes = encoded.indices.to_numpy(zero_copy_only=False)
        parts.append(digests(encoded.dictionary.to_pylist())[codes])
    return np.concatenate(parts)


def _numbers(rows: Rows, inputs: Inputs, limit: int) -> np.ndarray:
    """float32 [row number]; above `limit` bytes in a nameless file of the cache."""
    shape = (rows.table.num_rows, len(inputs.numbers))
    large = shape[0] * shape[1] * 4 > limit
    numbers = nameless_array(shape, np.float32) if large else np.zeros(shape, np.float32)
    for place, name in enumerate(inputs.numbers):
        with np.errstate(over="ignore"):
            numbers[:, place] = numbers_of(rows, name)
        infinite = np.flatnonzero(np.isinf(numbers[:, place]))
        if len(infinite):
            raise TaskgroveError(
                f"{rows.where(int(infinite[0]))} has an infinite number in the input column "
                f'"{name}"; correct it, or leave the cell empty if it is missing'
            )
    return numbers


def _empty_texts(rows: Rows, inputs: Inputs) -> list[str]:
    empty = np.ones(rows.table.num_rows, bool)
    for name in inputs.text:
        blank = pc.equal(pc.utf8_trim_whitespace(rows.table.column(name)), "")
        empty &= np.asarray(pc.fill_null(blank, True).to_numpy(), bool)
    if empty.all():
        raise TaskgroveError(
            f'the text column "{inputs.text[0]}" of {rows.name} is empty in every row'
        )
    if not empty.any():
        return []
    return [f"{rows.name}: {empty.sum()} of {len(empty)} rows have an empty text; they are kept"]
