"""From a target column to labels.

Labels are held only for the rows that have one: 8 to 16 bytes a label, whatever the table's length.
Symbols: rows [label] row numbers in rising order; values [label] class numbers int32, [label class]
uint8 zeros and ones, or [label] float32.
"""

# pyright: reportAttributeAccessIssue=false
# pyarrow.compute makes its functions when it is imported

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from taskgrove.errors import TaskgroveError
from taskgrove.tasks.columns import NULLS, PART, as_number
from taskgrove.tasks.readers import Rows
from taskgrove.tasks.schema import TaskSpec


@dataclass(frozen=True)
class Labels:
    """The labelled rows of a table and their labels; `names` are all that occur, in any split."""

    rows: np.ndarray
    values: np.ndarray
    names: tuple[str, ...] = ()


def read_labels(task: str, spec: TaskSpec, target: str, rows: Rows) -> Labels:
    """Every label of a column, before anything is left out."""
    column = rows.table.column(target)
    if spec.kind == "number":
        labels = _numbers(task, target, column, rows)
    elif spec.kind == "classes":
        labels = _cells(column)
        if any(PART in name for name in labels.names):
            raise TaskgroveError(
                f'task "{task}": column "{target}" of {rows.name} holds lists; set kind: labels'
            )
    else:
        labels = _many(_cells(column), spec.separator or ";")
    if not len(labels.rows):
        raise TaskgroveError(
            f'task "{task}": column "{target}" of {rows.name} is empty in every row; name the '
            "column with the labels (target: COLUMN)"
        )
    return labels


def _cells(column: pa.ChunkedArray) -> Labels:
    """Cells that are not empty as numbers of distinct cells."""
    place: dict[str, int] = {}
    rows, codes, first = [], [], 0
    for chunk in column.chunks:
        encoded = pc.utf8_trim_whitespace(chunk).dictionary_encode()
        words = encoded.dictionary.to_pylist()
        table = [place.setdefault(w, len(place)) if w else -1 for w in words]
        indices = pc.fill_null(encoded.indices, len(words)).to_numpy(zero_copy_only=False)
        code = np.array([*table, -1], np.int32)[indices]
        found = np.flatnonzero(code >= 0)
        rows.append(found + first)
        codes.append(code[found])
        first += len(chunk)
    if not rows:
        return Labels(np.zeros(0, np.int64), np.zeros(0, np.int32))
    return Labels(np.concatenate(rows), np.concatenate(codes), tuple(place))


def _many(cells: Labels, separator: str) -> Labels:
    """Cells cut into labels: values [label class]."""
    parts = [
        {p.strip() for p in cell.split(PART if PART in cell else separator)} - {""}
        for cell in cells.names
    ]
    place = {
        name: n for n, name in enumerate(dict.fromkeys(p for cell in parts for p in sorted(cell)))
    }
    ones = np.zeros((len(parts), len(place)), np.uint8)  # [cell class]
    for n, cell in enumerate(parts):
        ones[n, [place[p] for p in cell]] = 1
    return Labels(cells.rows, ones[cells.values], tuple(place))


def _numbers(task: str, target: str, column: pa.ChunkedArray, rows: Rows) -> Labels:
    values = numbers_of(rows, target)  # float64 [row], NaN is missing or written so
    there = ~_null(column)
    found = np.flatnonzero(there)
    values = values[found]
    with np.errstate(over="ignore"):
        short = values.astype(np.float32)
    bad = np.flatnonzero(~np.isfinite(short))
    if len(bad):
        row, value = int(found[bad[0]]), values[bad[0]]
        word = "not a number (nan)" if np.isnan(value) else f"{value:g}"
        raise TaskgroveError(
            f'task "{task}": {rows.where(row)} has the target {word} in column "{target}"; it must '
            "be finite: correct it, or leave the cell empty if it is missing"
        )
    return Labels(found, short)


def _null(column: pa.ChunkedArray) -> np.ndarray:
    if pa.types.is_string(column.type):
        word = pc.utf8_trim_whitespace(column)
        column = pc.or_kleene(pc.is_null(word), pc.is_in(word, pa.array(NULLS)))
        return np.asarray(column.to_numpy(), bool)
    return np.asarray(pc.is_null(column).to_numpy(), bool)


def numbers_of(rows: Rows, name: str) -> np.ndarray:
    """float64 [row] of a column, NaN where missing."""
    parts = []
    for piece in rows.pieces:
        first = piece.first
        for chunk in piece.table.column(name).chunks:
            parts.append(as_number(chunk, name, piece.name, first).to_numpy(zero_copy_only=False))
            first += len(chunk)
    return np.concatenate(parts) if parts else np.zeros(0)


def keep_rows(labels: Labels, kept: np.ndarray) -> Labels:
    """Only the labels that `kept` [label] marks."""
    return labels if kept.all() else Labels(labels.rows[kept], labels.values[kept], labels.names)


def center_and_scale(task: str, target: str, values: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation of training targets, in float64."""
    values = values.astype(np.float64)
    center, scale = float(values.mean()), float(values.std())
    if not scale > 1e-7 * max(abs(center), 1e-30):
        raise TaskgroveError(
            f'task "{task}": every training row has the same number {values[0]:g} in column '
            f'"{target}", so there is nothing to learn; name another target'
        )
    return center, scale
