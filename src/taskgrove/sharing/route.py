"""Route: which group (task, adapter, expert, head, prompt) each part of a batch uses.

The unit is an *entry*, a (group, position) pair: a row may carry labels of several tasks, a token
may visit several experts. Entries are sorted by group once a batch; group n owns
`rows[starts[n] : starts[n + 1]]`, positions in the batch (examples or tokens).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from taskgrove.errors import TaskgroveError, did_you_mean, listed


@dataclass(frozen=True)
class Route:
    """The groups present in a batch and each one's positions; a group may be empty.

    `numbers` place the groups in stacked weights (0, 1, ... where None); `weights` are the entries'
    shares where positions sum over several groups.
    """

    tasks: tuple[str, ...]
    rows: Int[Tensor, " entry"]
    starts: tuple[int, ...]
    numbers: tuple[int, ...] | None = None
    weights: Float[Tensor, " entry"] | None = None

    @cached_property
    def groups(self) -> tuple[int, ...]:
        """The place of each group in stacked weights."""
        return tuple(range(len(self.starts) - 1)) if self.numbers is None else self.numbers

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Entries of each group."""
        return tuple(b - a for a, b in zip(self.starts[:-1], self.starts[1:], strict=True))

    @cached_property
    def even(self) -> int | None:
        """The size of all groups where they are equal; else None."""
        return self.sizes[0] if self.sizes and len(set(self.sizes)) == 1 else None

    @cached_property
    def run(self) -> tuple[int, int] | None:
        """(first, count) where the groups' places are a run; else None."""
        first, count = self.groups[0], len(self.groups)
        return (first, count) if self.groups == tuple(range(first, first + count)) else None

    @cached_property
    def places(self) -> Int[Tensor, " group"]:
        """`groups` as a tensor."""
        return torch.tensor(self.groups, device=self.rows.device)

    @cached_property
    def group_of(self) -> Int[Tensor, " entry"]:
        """The group of each entry, as its place in stacked weights."""
        sizes = torch.tensor(self.sizes, device=self.rows.device)
        return self.places.repeat_interleave(sizes, output_size=self.starts[-1])

    def chosen(self, W: Tensor) -> Tensor:
        """The present groups' weights [group ...] of stacked ones; no copy where they are a run."""
        if self.run is None:
            return W.index_select(0, self.places)
        first, count = self.run
        return W if count == len(W) else W[first : first + count]

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
        weights = None if self.weights is None else self.weights.to(device)
        return replace(self, rows=self.rows.to(device), weights=weights)

    def spread(self, x: Tensor) -> Tensor:
        """x [position ...] to [entry ...], sorted by group."""
        return x.index_select(0, self.rows)

    def combine(self, y: Tensor, positions: int) -> Tensor:
        """y [entry ...] to [position ...]: the sum of each position's entries by their weights."""
        if self.weights is not None:
            y = y * self.weights.to(y.dtype).view(-1, *[1] * (y.ndim - 1))
        return y.new_zeros(positions, *y.shape[1:]).index_add_(0, self.rows, y)


def route(
    rows: Mapping[str, Int[Tensor, " row"]], numbers: Mapping[str, int] | None = None
) -> Route:
    """A route from each present task's rows; `numbers` place the tasks in stacked weights.

    >>> route({"a": torch.tensor([0, 2]), "b": torch.tensor([1])}).of("b")
    tensor([1])
    """
    starts = [0]
    for part in rows.values():
        starts.append(starts[-1] + len(part))
    flat = torch.cat(list(rows.values())) if rows else torch.zeros(0, dtype=torch.long)
    places = None if numbers is None else tuple(numbers[task] for task in rows)
    return Route(tuple(rows), flat, tuple(starts), places)


def routed(
    groups: Int[Tensor, "position choice"],
    count: int,
    weights: Float[Tensor, "position choice"] | None = None,
) -> Route:
    """A route from each position's groups, numbers below `count`, of which some may be empty.

    Weights keep their gradient. Cost: one sort of position x choice numbers.

    >>> routed(torch.tensor([[1], [0], [1]]), 3).sizes
    (1, 2, 0)
    """
    flat = groups.flatten()
    low, high = (int(flat.min()), int(flat.max())) if flat.numel() else (0, 0)
    if low < 0 or high >= count:
        wrong = low if low < 0 else high
        raise TaskgroveError(f"there is no group {wrong}: groups are numbered 0 to {count - 1}")
    order = flat.argsort(stable=True)
    ends = torch.bincount(flat, minlength=count).cumsum(0).tolist()
    rows = order // groups.shape[1]
    shares = None if weights is None else weights.flatten()[order]
    return Route((), rows, (0, *ends), None, shares)


def rows_of_tasks(tasks: Sequence[str], known: Mapping[str, int]) -> Route:
    """A route from the task of each row: a batch of mixed tasks as a user has it.

    >>> rows_of_tasks(["b", "a", "b"], {"a": 0, "b": 1}).rows
    tensor([1, 0, 2])
    """
    if unknown := next((task for task in tasks if task not in known), None):
        hint = did_you_mean(unknown, known)
        raise TaskgroveError(f'there is no task "{unknown}"; there are {listed(known)}.{hint}')
    present = [task for task in known if task in set(tasks)]
    found = {t: torch.tensor([n for n, task in enumerate(tasks) if task == t]) for t in present}
    return route(found, known)
