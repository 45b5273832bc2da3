"""CSV and TSV files, plain or gzipped, as a stream of typed batches."""

import csv
import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as arrow_csv

from taskgrove.errors import TaskgroveError
from taskgrove.tasks.columns import NULLS, check_columns, conform, is_number, not_a_number

DAMAGE = (UnicodeDecodeError, OSError, EOFError, zlib.error, csv.Error)
WHOLE = "\x1e"  # a delimiter that no header holds
BLOCK = 16 * 2**20  # bytes read at once; the longest row


def csv_batches(path: Path, columns: dict[str, str]) -> Iterator[pa.RecordBatch]:
    """The wanted columns, batch by batch."""
    header, delimiter = csv_header(path)
    check_columns(columns, header, path.name)
    for column in columns:
        if header.count(column) > 1:
            raise TaskgroveError(
                f'{path.name} has {header.count(column)} columns called "{column}"; rename all but '
                "one"
            )
    types = {c: pa.float64() if role == "number" else pa.string() for c, role in columns.items()}
    size = BLOCK if path.suffix == ".gz" else min(BLOCK, path.stat().st_size + 1)
    first = 0
    try:
        stream = arrow_csv.open_csv(
            path,
            arrow_csv.ReadOptions(block_size=max(size, 1024), use_threads=False),
            arrow_csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
            arrow_csv.ConvertOptions(
                include_columns=list(columns),
                column_types=types,
                null_values=list(NULLS),
                strings_can_be_null=False,  # "NA" may well be a class
            ),
        )
        for batch in stream:
            yield conform(batch, columns, path.name, first)
            first += batch.num_rows
    except (pa.ArrowException, OSError) as error:
        raise _explained(path, delimiter, columns, error) from None
    if first == 0:
        raise TaskgroveError(f"{path.name} has a header but no rows")


def csv_header(path: Path) -> tuple[list[str], str]:
    """The column names and the delimiter: a tab in .tsv, else the one that cuts the header."""
    if path.stat().st_size == 0:
        raise TaskgroveError(f"{path.name} is empty; its first line must name the columns")
    try:
        with _text(path) as lines:
            line = next(csv.reader(lines, delimiter=WHOLE), [])
        text = WHOLE.join(line)
        tab = path.name.removesuffix(".gz").endswith(".tsv")
        delimiter = "\t" if tab else max(",;\t|", key=lambda d: (text.count(d), d == ","))
        with _text(path) as lines:
            header = next((row for row in csv.reader(lines, delimiter=delimiter) if row), [])
    except DAMAGE as error:
        raise _unreadable(path, error) from None
    if not header:
        raise TaskgroveError(f"{path.name} is empty; its first line must name the columns")
    return header, delimiter


def csv_head(path: Path, rows: int) -> dict[str, list[str]]:
    """The first rows as text, by column."""
    header, delimiter = csv_header(path)
    table: list[list[str]] = []
    try:
        with _text(path) as lines:
            for number, row in enumerate(r for r in csv.reader(lines, delimiter=delimiter) if r):
                if number and len(row) == len(header):
                    table.append(row)
                if number >= rows:
                    break
    except DAMAGE as error:
        raise _unreadable(path, error) from None
    return {name: [row[i] for row in table] for i, name in enumerate(header)}


def _text(path: Path) -> io.TextIOWrapper:
    if path.suffix == ".gz":
        return io.TextIOWrapper(gzip.GzipFile(path, "rb"), "utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


def _unreadable(path: Path, error: Exception) -> TaskgroveError:
    if isinstance(error, UnicodeDecodeError):
        return TaskgroveError(f"{path.name} is not UTF-8 text ({error.reason}); save it as UTF-8")
    return TaskgroveError(f"{path.name} cannot be read ({error})")


def _explained(
    path: Path, delimiter: str, columns: dict[str, str], error: Exception
) -> TaskgroveError:
    """What the fast reader stumbled over, found again row by row."""
    try:
        with _text(path) as lines:
            rows = (row for row in csv.reader(lines, delimiter=delimiter) if row)
            header = next(rows)
            numbers = [(c, header.index(c)) for c, role in columns.items() if role == "number"]
            for number, row in enumerate(rows):
                if len(row) != len(header):
                    cells = "1 cell" if len(row) == 1 else f"{len(row)} cells"
                    return TaskgroveError(
                        f"row {number + 1} of {path.name} has {cells}, but the header "
                        f"names {len(header)} columns; put a cell that holds {delimiter!r} or a "
                        "line break in double quotes"
                    )
                for column, place in numbers:
                    cell = row[place].strip()
                    if cell not in NULLS and not is_number(cell):
                        return not_a_number(cell, column, path.name, number)
    except DAMAGE as again:
        return _unreadable(path, again)
    return TaskgroveError(f"{path.name} cannot be read ({str(error).splitlines()[0]})")
