"""Rates that do not change while training: proportional, temperature with cap, uniform, fixed.

Colin Raffel et al., 2020, "Exploring the Limits of Transfer Learning with a Unified Text-to-Text
Transformer", section 3.5.2, https://arxiv.org/abs/1910.10683.

The rate of a task is the share of the drawn examples that come from it. Drawing in proportion to
size starves small tasks, drawing all equally repeats them; a cap or a temperature stands between.

    r_m = min(e_m, K)^(1/T) / sum_n min(e_n, K)^(1/T)

r_m: rate [task]; e_m: number of training rows [task]; K: cap, a number of rows (none: infinity);
T: temperature; T = 1 is proportional (to the capped size), T = infinity is uniform. A mixture of
mixtures applies the rule at each level: a task's rate is the product of the shares along its path.

Differences from the paper: nothing.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from taskgrove.errors import TaskgroveError, did_you_mean, listed


@dataclass(frozen=True)
class Group:
    """A mixture of tasks and of further groups; its fields are the arguments of `rates`.

    A general stream at a fixed share of 20%:
    `Group("all", ("general", Group("ours", ("a", "b"))), weights={"general": 0.2, "ours": 0.8})`
    """

    name: str
    members: tuple[str | Group, ...]  # a group's size is the sum of its tasks'
    temperature: float | int = 1.0  # 1: proportional to size; infinity: uniform
    cap: int | None = None  # no member counts for more rows than this
    weights: Mapping[str, float | int] | None = None  # by member's name, instead of the two


def rates(
    sizes: Mapping[str, int],
    temperature: float | int = 1.0,
    cap: int | None = None,
    weights: Mapping[str, float | int] | None = None,
) -> dict[str, float]:
    """The share of each task, in the order of `sizes`; they sum to 1.

    >>> rates({"large": 300, "small": 100})
    {'large': 0.75, 'small': 0.25}
    >>> rates({"large": 900, "small": 100}, temperature=2)
    {'large': 0.75, 'small': 0.25}
    >>> rates({"large": 900, "small": 100}, weights={"small": 3, "large": 1})
    {'large': 0.25, 'small': 0.75}
    """
    if not sizes:
        raise TaskgroveError("There are no tasks to mix; expected at least one.")
    if weights is not None:
        if temperature != 1 or cap is not None:
            raise TaskgroveError(
                f"Got weights and also a temperature of {temperature} and a cap of {cap}; "
                "expected either weights, or a temperature and a cap."
            )
        _check_names("weights", weights, sizes)
    for task, size in sizes.items():
        if size <= 0 and (weights is None or weights[task] != 0):
            raise TaskgroveError(
                f'"{task}" has {size} training rows; expected at least 1: '
                "add labelled rows, or leave it out."
            )
    if weights is not None:
        return fixed({task: weights[task] for task in sizes})
    if not temperature > 0:
        raise TaskgroveError(
            f"The temperature is {temperature}; expected a number above 0 "
            "(1 is proportional to size, inf is uniform)."
        )
    if cap is not None and not cap > 0:
        raise TaskgroveError(f"The cap is {cap}; expected a number of rows above 0, or no cap.")
    capped = {task: size if cap is None else min(size, cap) for task, size in sizes.items()}
    most = max(capped.values())  # sizes relative to the largest: no power can overflow
    return fixed({task: (size / most) ** (1 / temperature) for task, size in capped.items()})


def proportional(sizes: Mapping[str, int]) -> dict[str, float]:
    """Every row equally often: `r_m = e_m / sum_n e_n`."""
    return rates(sizes)


def uniform(sizes: Mapping[str, int]) -> dict[str, float]:
    """Every task equally often, whatever its size."""
    return rates(sizes, temperature=math.inf)


def temperature(
    sizes: Mapping[str, int], T: float | int = 2.0, cap: int | None = None
) -> dict[str, float]:
    """Between the two: `r_m` grows as `min(e_m, cap)^(1/T)`."""
    return rates(sizes, temperature=T, cap=cap)


def fixed(weights: Mapping[str, float | int]) -> dict[str, float]:
    """The given weights, scaled to sum to 1; a weight of 0 leaves a task out."""
    for task, weight in weights.items():
        if not (math.isfinite(weight) and weight >= 0):
            raise TaskgroveError(
                f'The weight of "{task}" is {weight}; expected a finite number, 0 or above.'
            )
    total = sum(weights.values())
    if not 0 < total < math.inf:
        raise TaskgroveError(
            f"The weights of {listed(weights) or 'no tasks'} sum to {total}; "
            "expected a finite sum above 0."
        )
    return {task: weight / total for task, weight in weights.items()}


def nested(group: Group, sizes: Mapping[str, int]) -> dict[str, float]:
    """The rates of a mixture of mixtures: each task's is the product of the shares along its path.

    >>> reviews = Group("reviews", ("a", "b"))
    >>> nested(Group("all", (reviews, "c"), temperature=math.inf), {"a": 30, "b": 10, "c": 5})
    {'a': 0.375, 'b': 0.125, 'c': 0.5}
    """
    times = Counter(_names(group))
    if twice := [name for name, count in times.items() if count > 1]:
        raise TaskgroveError(
            f'"{twice[0]}" stands in {times[twice[0]]} places of the mixture "{group.name}"; '
            "expected each task and group in one place."
        )
    tasks = dict.fromkeys(tasks_of(group))
    _check_names(f'the mixture "{group.name}"', tasks, sizes)
    return dict(_flatten(group, sizes, 1.0))


def _flatten(group: Group, sizes: Mapping[str, int], share: float) -> Iterator[tuple[str, float]]:
    members = {_name(member): sum(sizes[t] for t in tasks_of(member)) for member in group.members}
    within = rates(members, group.temperature, group.cap, group.weights)
    for member in group.members:
        if isinstance(member, Group):
            yield from _flatten(member, sizes, share * within[member.name])
        else:
            yield member, share * within[member]


def _name(member: str | Group) -> str:
    return member.name if isinstance(member, Group) else member


def _names(member: str | Group) -> Iterator[str]:
    yield _name(member)
    if isinstance(member, Group):
        for inner in member.members:
            yield from _names(inner)


def tasks_of(member: str | Group) -> Iterator[str]:
    """The tasks of a group and of the groups in it."""
    if isinstance(member, str):
        yield member
    else:
        for inner in member.members:
            yield from tasks_of(inner)


def _check_names(what: str, named: Mapping[str, object], sizes: Mapping[str, int]) -> None:
    if unknown := [name for name in named if name not in sizes]:
        raise TaskgroveError(
            f'"{unknown[0]}" in {what} is not a task (the tasks are: {listed(sizes)}).'
            + did_you_mean(unknown[0], sizes)
        )
    if missing := [task for task in sizes if task not in named]:
        raise TaskgroveError(
            f'The task "{missing[0]}" is missing from {what}; expected every task '
            "(a weight of 0 leaves one out)."
        )
