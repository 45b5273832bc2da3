"""From a task as written, its table and its labels to a `Task`, or to the sentence why not."""

import numpy as np

from taskgrove.errors import TaskgroveError, listed
from taskgrove.tasks.map_targets import map_facts
from taskgrove.tasks.schema import TaskSpec
from taskgrove.tasks.split_names import SPLITS, TRAIN
from taskgrove.tasks.table import Table
from taskgrove.tasks.targets import Labels, center_and_scale
from taskgrove.tasks.task import DEFAULT_METRIC, MAPS, Task
from taskgrove.tasks.vocabulary import vocabulary


def make_task(
    name: str,
    spec: TaskSpec,
    target: str,
    number: int,
    table: Table,
    labels: Labels,
) -> tuple[Task, Labels, list[str]]:
    """A task of table `number` with its statistics, its final labels, and notes."""
    notes: list[str] = []
    center, scale = 0.0, 1.0
    if spec.kind in ("classes", "labels"):
        if len(labels.names) < 2 and spec.kind == "classes":
            raise _one_class(name, target, next(iter(labels.names), None))
        labels, notes = vocabulary(name, spec, labels, table.split)
        if len(labels.names) < (2 if spec.kind == "classes" else 1):
            raise _one_class(name, target, next(iter(labels.names), None))
    _check_splits(name, labels, table)
    if spec.kind == "number":
        train = labels.values[table.split[labels.rows] == TRAIN]
        center, scale = center_and_scale(name, target, train)
    if spec.kind in MAPS:
        train = table.split[labels.rows] == TRAIN
        center, scale = map_facts(name, spec.kind, labels, train)
    if spec.kind == "labels" and labels.values.sum(1).max() < 2:
        notes.append(
            f'task "{name}": no cell of column "{target}" holds two labels; is the separator '
            f'"{spec.separator or ";"}" right?'
        )
    metric = spec.metric or DEFAULT_METRIC[spec.kind]
    task = Task(name, number, target, spec.kind, labels.names, center, scale, metric, spec.weight)
    return task, labels, notes


def _one_class(name: str, target: str, label: str | None) -> TaskgroveError:
    got = "no label can be learnt" if label is None else f'the only label is "{label}"'
    return TaskgroveError(
        f'task "{name}": {got} in column "{target}"; at least two are needed, each in several rows'
    )


def _check_splits(name: str, labels: Labels, table: Table) -> None:
    counts = np.bincount(table.split[labels.rows], minlength=len(SPLITS))
    empty = [split for split, count in zip(SPLITS, counts, strict=True) if not count]
    if empty:
        parts = ", ".join(f"{split} {n}" for split, n in zip(SPLITS, counts, strict=True))
        keys = len(np.unique(table.groups[labels.rows]))
        raise TaskgroveError(
            f'task "{name}" has no labelled row in {listed(empty)} of {table.name} ({parts}, '
            f"{keys} different keys); add rows, or change the split"
        )
