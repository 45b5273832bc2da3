"""Batch: what the model reads and what it should say, gathered from the rows that a plan names.

Rows of one table stand together; a row counts for each task whose label it has. Targets are in the
losses' terms: class numbers [row], zeros and ones [row class], or centred and scaled numbers [row].
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor

from taskgrove.sharing.route import Route, route
from taskgrove.tasks.task import MAPS
from taskgrove.tasks.task_set import TaskSet

Prepare = Callable[[dict[str, Any]], dict[str, Tensor]]


@dataclass(frozen=True)
class Batch:
    """inputs {name: [row ...]}, the route from tasks to rows, targets by task."""

    inputs: dict[str, Tensor]
    route: Route
    targets: dict[str, Tensor]

    def to(self, device: torch.device) -> "Batch":
        """The same batch on `device`."""
        inputs = {name: value.to(device) for name, value in self.inputs.items()}
        targets = {task: value.to(device) for task, value in self.targets.items()}
        return Batch(inputs, self.route.to(device), targets)

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))


@dataclass(frozen=True)
class Feed:
    """The labels of some tasks, by table: `has` [row task] over all rows of the table."""

    task_set: TaskSet
    tasks: dict[int, tuple[str, ...]]
    has: dict[int, np.ndarray]
    targets: dict[str, tuple[np.ndarray, np.ndarray]]  # labelled rows, rising, and their targets

    def labels(self, tables: np.ndarray, rows: np.ndarray) -> list[tuple[str, np.ndarray]]:
        """(task, positions in the plan) of each task present, in the order of the tables."""
        present = []
        for table in np.unique(tables):
            places = np.flatnonzero(tables == table)
            found = self.has[table][rows[places]]  # [row task]
            for column in np.flatnonzero(found.any(0)):
                present.append((self.tasks[table][column], places[found[:, column]]))
        return present

    def batch(self, prepare: Prepare, tables: np.ndarray, rows: np.ndarray) -> Batch:
        """The rows of a plan as a batch on the CPU; `tables` must be grouped."""
        raw = [self.task_set.raw(int(t), rows[tables == t]) for t in dict.fromkeys(tables)]
        present = self.labels(tables, rows)
        places = {task: torch.from_numpy(positions) for task, positions in present}
        targets = {task: self._targets(task, rows[positions]) for task, positions in present}
        return Batch(prepare(joined(raw)), route(places), targets)

    def _targets(self, task: str, rows: np.ndarray) -> Tensor:
        labelled, targets = self.targets[task]
        found = targets[np.searchsorted(labelled, rows)]
        if (facts := self.task_set.tasks[task]).kind == "depth":
            found = ((found - facts.center) / facts.scale).astype(np.float32)
        return torch.from_numpy(found)


def feed(task_set: TaskSet, tasks: Sequence[str]) -> Feed:
    """The labels of `tasks`, read once: a byte for each pair of a row and a task of its table, and
    8 to 12 bytes a label."""
    by_table: dict[int, list[str]] = {}
    for name in tasks:
        by_table.setdefault(task_set.tasks[name].table, []).append(name)
    has = {
        table: np.stack([task_set.has(name) for name in names], axis=1)
        for table, names in by_table.items()
    }
    targets = {name: model_targets(task_set, name) for name in tasks}
    return Feed(task_set, {t: tuple(names) for t, names in by_table.items()}, has, targets)


def model_targets(task_set: TaskSet, name: str) -> tuple[np.ndarray, np.ndarray]:
    """A task's labelled rows and their targets; numbers centred and scaled by the training part."""
    task, labels = task_set.tasks[name], task_set.labels[name]
    if task.kind in MAPS:
        return labels.rows, labels.values  # as they lie, perhaps memory-mapped
    if task.kind == "number":
        return labels.rows, ((labels.values - task.center) / task.scale).astype(np.float32)
    kind = np.int64 if task.kind == "classes" else np.uint8
    return labels.rows, labels.values.astype(kind)


def joined(raws: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Raw columns of several tables end to end."""
    if len(raws) == 1:
        return dict(raws[0])
    whole: dict[str, Any] = {}
    for name, first in raws[0].items():
        parts = [raw[name] for raw in raws]
        if name == "categories":
            whole[name] = [list(chain(*columns)) for columns in zip(*parts, strict=True)]
        elif isinstance(first, Tensor):
            whole[name] = torch.cat(parts)
        else:
            whole[name] = list(chain(*parts))
    return whole
