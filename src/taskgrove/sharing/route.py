"""Route: which rows of a batch belong to which task, sorted once a batch.

A row may carry labels of several tasks, so the unit is an *entry*, a (task, row) pair:
`rows` [entry] holds batch positions ordered by task; task number t owns
`rows[starts[t] : starts[t + 1]]`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor


@dataclass(frozen=True)
class Route:
    """The tasks present in a batch, in the order of the task set, and each one's rows."""

    tasks: tuple[str, ...]
    rows: Int[Tensor, " entry"]
    starts: tuple[int, ...]

    def of(self, task: str) -> Int[Tensor, " row"]:
        """Batch positions of the rows of `task`."""
        number = self.tasks.index(task)
        return self.rows[self.starts[number] : self.starts[number + 1]]

    def items(self) -> list[tuple[str, Int[Tensor, " row"]]]:
        """(task, rows) pairs in one pass."""
        bounds = zip(self.starts[:-1], self.starts[1:], strict=True)
        return [(t, self.rows[a:b]) for t, (a, b) in zip(self.tasks, bounds, strict=True)]

    def to(self, device: torch.device) -> "Route":
        """The same route with its rows on `device`."""
        return Route(self.tasks, self.rows.to(device), self.starts)


def route(rows: Mapping[str, Int[Tensor, " row"]]) -> Route:
    """A route from each present task's rows.

    >>> route({"a": torch.tensor([0, 2]), "b": torch.tensor([1])}).of("b")
    tensor([1])
    """
    starts = [0]
    for part in rows.values():
        starts.append(starts[-1] + len(part))
    flat = torch.cat(list(rows.values())) if rows else torch.zeros(0, dtype=torch.long)
    return Route(tuple(rows), flat, tuple(starts))
