"""Pair files: JSON lines or CSV, one row a pair, one file or `task` a task.

query, positive[, negative]     texts that belong together, and one that does not
a, b, score                     two texts and how alike they are
text, label                     texts with a class; two of one class belong together
"""

import csv
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from taskgrove.errors import TaskgroveError, did_you_mean, listed
from taskgrove.tasks.columns import is_number
from taskgrove.tasks.json_lines import json_rows
from taskgrove.tasks.pairs import Kind, Pairs

FORMS: dict[Kind, tuple[str, ...]] = {
    "partners": ("query", "positive"),
    "graded": ("a", "b", "score"),
    "classes": ("text", "label"),
}
JSON, TABLE = (".jsonl", ".json", ".ndjson"), (".csv", ".tsv")
Row = Mapping[str, Any]


def read_pairs(files: Iterable[Path]) -> dict[str, Pairs]:
    """The tasks by name, a file's own name where it has no column `task`."""
    by_task: dict[str, list[tuple[str, Row]]] = defaultdict(list)
    kinds: dict[str, tuple[Kind, Path]] = {}
    for file in files:
        rows = rows_of(file)
        if not rows:
            raise TaskgroveError(f"{file.name} has no rows; expected one pair a row.")
        kind = kind_of(rows[0], file)
        for number, row in enumerate(rows, 1):
            task = str(row.get("task") or file.stem)
            known, first = kinds.setdefault(task, (kind, file))
            if known != kind:
                raise TaskgroveError(
                    f'the task "{task}" has columns {listed(FORMS[known])} in {first.name} and'
                    f" {listed(FORMS[kind])} in {file.name}; expected one form a task."
                )
            check(row, kind, file, number)
            by_task[task].append((f"{file.name}, row {number}", row))
    return {task: built(task, kinds[task][0], [row for _, row in rows])
            for task, rows in by_task.items()}  # fmt: skip


def rows_of(file: Path) -> list[Row]:
    """All rows of a file."""
    if not file.is_file():
        raise TaskgroveError(f"{file} is not a file; expected a .jsonl or .csv file of pairs.")
    if file.suffix in JSON:
        return list(json_rows(file))
    if file.suffix not in TABLE:
        raise TaskgroveError(f"{file.name} ends in neither of {listed((*JSON, *TABLE))}.")
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            return list(csv.DictReader(lines, delimiter="\t" if file.suffix == ".tsv" else ","))
    except (UnicodeDecodeError, csv.Error) as error:
        raise TaskgroveError(f"{file.name} cannot be read as UTF-8 CSV ({error}).") from None


def kind_of(row: Row, file: Path) -> Kind:
    """By the columns of the first row."""
    for kind, needed in FORMS.items():
        if set(needed) <= row.keys():
            return kind
    wanted = [name for needed in FORMS.values() for name in needed]
    hints = [did_you_mean(name, wanted) for name in row if name not in (*wanted, "task")]
    forms = "; or ".join(", ".join(needed) for needed in FORMS.values())
    raise TaskgroveError(
        f"{file.name} has the columns {listed(row) or 'none'}; expected {forms}."
        + next((hint for hint in hints if hint), "")
    )


def check(row: Row, kind: Kind, file: Path, number: int) -> None:
    """Texts are text, and grades numbers."""
    for name in FORMS[kind]:
        value = row.get(name)
        if name == "score":
            if not is_number(str(value)):
                raise TaskgroveError(
                    f'{file.name}, row {number}: the score is "{value}"; expected a number.'
                )
        elif name != "label" and not (isinstance(value, str) and value.strip()):
            raise TaskgroveError(
                f'{file.name}, row {number}: "{name}" is {value!r}; expected text.'
            )
        elif value is None or value == "":
            raise TaskgroveError(f'{file.name}, row {number}: "{name}" is missing.')


def built(task: str, kind: Kind, rows: list[Row]) -> Pairs:
    """Column by column."""
    if kind == "classes":
        several = {label: n for n, label in enumerate(sorted({str(row["label"]) for row in rows}))}
        labels = [several[str(row["label"])] for row in rows]
        return Pairs(task, [row["text"] for row in rows], classes=labels)
    first, second = FORMS[kind][:2]
    columns = [row[first] for row in rows], [row[second] for row in rows]
    if kind == "graded":
        return Pairs(task, *columns, grades=[float(row["score"]) for row in rows])
    hard = [str(row.get("negative") or "") for row in rows]
    return Pairs(task, *columns, hard if any(hard) else ())
