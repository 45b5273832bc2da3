"""JSON lines (one object a line, plain or gzipped), or one JSON list of objects."""

import gzip
import json
import math
import zlib
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from taskgrove.errors import TaskgroveError
from taskgrove.tasks.columns import check_columns, is_number, listed_labels, not_a_number

BLOCK = 20_000  # rows in a batch


def json_batches(path: Path, columns: dict[str, str]) -> Iterator[pa.RecordBatch]:
    """The wanted columns, batch by batch; a key that a row lacks is missing there."""
    rows = enumerate(json_rows(path))
    seen: dict[str, None] = {}
    first = 0
    while block := list(islice(rows, BLOCK)):
        for _, row in block:
            seen.update(dict.fromkeys(row))
        arrays = [
            pa.array(
                [_cell(row.get(column), role, column, path, n) for n, row in block], TYPES[role]
            )
            for column, role in columns.items()
        ]
        yield pa.RecordBatch.from_arrays(arrays, names=list(columns))
        first += len(block)
    if not first:
        raise TaskgroveError(f"{path.name} is empty; it must hold one JSON object a line")
    check_columns(columns, seen, path.name)


def json_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Every object of the file."""
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as lines:
            start = lines.peek(64).lstrip(b"\xef\xbb\xbf \t\r\n")[:1]  # pyright: ignore
            if start == b"[":
                yield from _objects(enumerate(json.loads(lines.read().decode("utf-8-sig"))), path)
            else:
                yield from _objects(_parsed(lines, path), path)
    except json.JSONDecodeError as error:
        raise TaskgroveError(f"{path.name} is not JSON ({error})") from None
    except UnicodeDecodeError as error:
        raise TaskgroveError(
            f"{path.name} is not UTF-8 text ({error.reason}); save it as UTF-8"
        ) from None
    except (OSError, EOFError, zlib.error) as error:
        raise TaskgroveError(f"{path.name} cannot be read ({error})") from None


def _parsed(lines: Iterable[bytes], path: Path) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(lines):
        if not line.strip():
            continue
        try:
            yield number, json.loads(line.decode("utf-8-sig" if number == 0 else "utf-8"))
        except json.JSONDecodeError as error:
            raise TaskgroveError(
                f"line {number + 1} of {path.name} is not JSON ({error.msg} at character "
                f"{error.pos + 1}); each line must be one object"
            ) from None


def _objects(values: Iterable[tuple[int, Any]], path: Path) -> Iterator[dict[str, Any]]:
    for number, value in values:
        if not isinstance(value, dict):
            raise TaskgroveError(
                f"line {number + 1} of {path.name} is not an object such as {{"
                f'"text": "...", "label": "..."}}'
            )
        yield value


TYPES = {
    "string": pa.string(),
    "number": pa.float64(),
    "labels": pa.string(),
    "image": pa.string(),
}


def _cell(value: Any, role: str, column: str, path: Path, row: int) -> Any:
    if role == "number":
        return _number(value, column, path, row)
    if role == "labels" and isinstance(value, list):
        return listed_labels([_word(part, column, path, row) for part in value])
    return _word(value, column, path, row)


def _word(value: Any, column: str, path: Path, row: int) -> str | None:
    if isinstance(value, str):  # JSON can spell half a character, which no text file can hold
        return value if value.isascii() else value.encode("utf-8", "replace").decode()
    if value is None:
        return None
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        whole = isinstance(value, float) and value.is_integer() and abs(value) < 1e15
        return str(int(value) if whole else value)
    kind = type(value).__name__
    hint = " (lists of labels need kind: labels)" if kind == "list" else ""
    raise TaskgroveError(
        f'row {row + 1} of {path.name} has a {kind} in column "{column}", but text is needed{hint}'
    )


def _number(value: Any, column: str, path: Path, row: int) -> float | None:
    if value is None:
        return None
    if isinstance(value, int | float):
        try:
            return float(value)
        except OverflowError:
            return math.inf
    if isinstance(value, str) and (not value.strip() or is_number(value)):
        return float(value) if value.strip() else None
    raise not_a_number(value, column, path.name, row)
