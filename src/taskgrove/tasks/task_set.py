"""TaskSet: tasks, the tables that hold their rows, and the labels; made from a tasks file."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from taskgrove.errors import TaskgroveError
from taskgrove.tasks.cache import memory_limit
from taskgrove.tasks.columns import MissingColumnError
from taskgrove.tasks.empty_splits import fill_empty_splits
from taskgrove.tasks.images import Progress
from taskgrove.tasks.inputs import Inputs
from taskgrove.tasks.make_task import make_task
from taskgrove.tasks.map_targets import map_notes, read_target
from taskgrove.tasks.origins import check_alike, group_by_origin
from taskgrove.tasks.raw import raw
from taskgrove.tasks.readers import Rows
from taskgrove.tasks.schema import DEFAULT_SPLIT, Fractions, TasksFile, read_tasks_file
from taskgrove.tasks.split_names import SPLITS, TEST, TRAIN, VALIDATION
from taskgrove.tasks.table import Origin, Table, build_table, read_origin
from taskgrove.tasks.targets import Labels, keep_rows
from taskgrove.tasks.task import MAPS, Task

__all__ = ["SPLITS", "TEST", "TRAIN", "VALIDATION", "Inputs", "Table", "TaskSet", "load_tasks"]


@dataclass(frozen=True)
class TaskSet:
    """Everything that training and measuring ask of the data."""

    name: str
    tasks: dict[str, Task]
    tables: list[Table]
    notes: list[str]  # what the user should know, a sentence each
    backbone_name: str | None = None
    mixture: Any = None  # as in the tasks file
    max_length: int | None = None
    labels: dict[str, Labels] = field(default_factory=dict, repr=False)
    file: TasksFile | None = field(default=None, repr=False)  # from which another process reads

    def target(self, task: str) -> np.ndarray:
        """Labels over the table's rows: int64, float32 or, for several labels, uint8 [row class];
        maps [row size size], normals [row 3 size size].

        Missing is -1 or NaN; a missing row in uint8 is all zeros: ask `has`.
        """
        labels, kind = self.labels[task], self.tasks[task].kind
        number = dict.fromkeys(("number", "depth", "normals"), (np.nan, np.float32))
        fill, dtype = {"classes": (-1, np.int64), **number}.get(kind, (0, np.uint8))
        whole = np.full((len(self.table(task)), *labels.values.shape[1:]), fill, dtype)
        whole[labels.rows] = labels.values
        return whole

    def has(self, task: str) -> np.ndarray:
        """bool [row]: whether the row carries a label of the task."""
        mask = np.zeros(len(self.table(task)), bool)
        mask[self.labels[task].rows] = True
        return mask

    def rows(self, task: str, split: str) -> np.ndarray:
        """int64: the numbers of the task's labelled rows in a split, rising."""
        rows = self.labels[task].rows
        return rows[self.table(task).split[rows] == SPLITS.index(split)]

    def key_groups(self, task: str, split: str) -> np.ndarray:
        """int64, one for each of `rows`: equal where the key is, also across tasks and tables."""
        return self.table(task).groups[self.rows(task, split)].astype(np.int64)

    def raw(self, table: int, rows: np.ndarray) -> dict[str, Any]:
        """Input columns of some rows of a table, see `tasks.raw`."""
        return raw(self.tables[table], rows)

    def table(self, task: str) -> Table:
        """The table of a task."""
        return self.tables[self.tasks[task].table]

    def fingerprint(self) -> str:
        """A digest that changes with any input, label, split, task or setting of the file."""
        digest = blake2b(digest_size=16)
        facts = [task.to_json() for task in self.tasks.values()]
        facts += [table.inputs.to_json() for table in self.tables]
        asked = [self.mixture, self.backbone_name, self.max_length]
        digest.update(json.dumps([*facts, *asked]).encode())
        for table in self.tables:
            for array in (table.split, table.groups, table.content):
                digest.update(array.tobytes())
        for labels in self.labels.values():
            digest.update(labels.rows.tobytes())
            digest.update(labels.values.tobytes())
        return digest.hexdigest()


def load_tasks(
    source: str | Path | TasksFile,
    progress: Progress | None = None,
    limit: int | None = None,
) -> TaskSet:
    """Reads, checks and splits all data of a tasks file.

    `progress(what, done, total)` is called while images are opened. What is larger than `limit`
    bytes is memory-mapped from the cache (default: see `tasks.cache`). Raises TaskgroveError.
    """
    file = source if isinstance(source, TasksFile) else read_tasks_file(source)
    limit = memory_limit() if limit is None else limit
    groups = group_by_origin(file)
    tables: list[Table] = []
    cuts: list[frozenset[int]] = []
    found: dict[str, tuple[int, Labels]] = {}
    notes: list[str] = []
    for number, (origin, names) in enumerate(groups.items()):
        rows, labels = _read(file, origin, names, limit)
        table, cut, told = build_table(origin, rows, progress, limit)
        tables.append(table)
        cuts.append(cut)
        notes += told
        found.update({name: (number, _kept(labels[name], table)) for name in names})
    check_alike(tables, groups)
    notes += fill_empty_splits(
        [table.split for table in tables],
        [table.groups for table in tables],
        cuts,
        {name: (found[name][0], found[name][1].rows) for name in file.tasks},
        [_fractions(origin) for origin in groups],
    )
    notes += _overlaps(tables)
    tasks, kept = {}, {}
    columns = {name: target for names in groups.values() for name, target in names.items()}
    for name, spec in file.tasks.items():
        number, labels = found[name]
        target = columns[name]
        tasks[name], kept[name], told = make_task(
            name, spec, target, number, tables[number], labels
        )
        notes += told
    notes += map_notes(tasks, kept)
    return TaskSet(
        file.name, tasks, tables, notes, file.backbone, file.mixture, file.max_length, kept, file
    )


def _read(
    file: TasksFile, origin: Origin, names: Mapping[str, str], limit: int
) -> tuple[Rows, dict[str, Labels]]:
    """The rows of an origin and the labels of its tasks; `names` is task to target column."""
    roles = {"classes": "string", "labels": "labels", "number": "number"}
    roles |= dict.fromkeys(MAPS, "image")
    targets: dict[str, str] = {}
    for name, target in names.items():
        role = roles[file.tasks[name].kind]
        targets[target] = role if targets.get(target, role) == role else "string"
    try:
        rows = read_origin(origin, targets, file.folder, limit)
    except MissingColumnError as error:
        raise TaskgroveError(f"{error}{_undo(file, next(iter(names)), error.column)}") from None
    return rows, {
        name: read_target(name, file.tasks[name], target, rows, origin.inputs, limit)
        for name, target in names.items()
    }


def _undo(file: TasksFile, task: str, column: str) -> str:
    """How a task does without a column that only the top level names."""
    for name in ("text", "image", "numbers", "categories", "key", "split"):
        value = getattr(file.tasks[task], name)
        asked = column == value or (isinstance(value, list) and column in value)
        if asked and name in file.inherited.get(task, ()):
            return f' The top level asks for it; if "{task}" has none, write {name}: null there.'
    return ""


def _kept(labels: Labels, table: Table) -> Labels:
    return keep_rows(labels, table.split[labels.rows] >= 0)


def _fractions(origin: Origin) -> tuple[float, float]:
    fractions = origin.split if isinstance(origin.split, Fractions) else DEFAULT_SPLIT
    return fractions.validation, fractions.test


def _overlaps(tables: list[Table]) -> list[str]:
    """Rows whose content is also trained on: given splits, or a key, may allow it."""
    train = np.unique(np.concatenate([t.content[t.split == TRAIN] for t in tables]))
    notes = []
    for table in tables:
        for part in (VALIDATION, TEST):
            rows = table.content[table.split == part]
            place = np.minimum(np.searchsorted(train, rows), len(train) - 1)
            same = int((train[place] == rows).sum()) if len(train) else 0
            if same:
                notes.append(
                    f"{table.name}: {same} of {len(rows)} {SPLITS[part]} rows have the same "
                    "content as a training row (texts are compared without digits and "
                    "punctuation), so their scores may be too good"
                )
    return notes
