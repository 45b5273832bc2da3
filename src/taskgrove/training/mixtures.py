"""The mixture that a run draws from: a task set's labels and the rates its tasks file asks for."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from taskgrove.errors import TaskgroveError, did_you_mean, listed
from taskgrove.mixing import RATES, Group, Labels, Mixture, fixed, nested
from taskgrove.mixing.static import tasks_of
from taskgrove.tasks.task_set import TRAIN, TaskSet
from taskgrove.training.batch import Feed

Rule = str | Mapping[str, Any] | None
RULES = ("uniform", "proportional")
FIELDS = ("temperature", "cap", "weights", "groups", "tasks")


def task_rates(sizes: Mapping[str, int], rule: Rule) -> dict[str, float]:
    """Rates over the tasks of `sizes` [rows] by the `mixture:` of a tasks file; default uniform.

    >>> task_rates({"a": 300, "b": 100}, "proportional")
    {'a': 0.75, 'b': 0.25}
    >>> rule = {"groups": {"texts": ["a", "b"]}, "weights": {"texts": 1, "c": 1}}
    >>> task_rates({"a": 30, "b": 10, "c": 5}, rule)
    {'a': 0.375, 'b': 0.125, 'c': 0.5}
    """
    if rule is None:
        return RATES["uniform"](sizes)
    if isinstance(rule, str):
        if rule not in RULES:
            raise TaskgroveError(
                f'mixture: "{rule}" is not known; it is uniform, proportional, or a mapping such as'
                f" {{temperature: 2, cap: 10000}} or {{weights: {{task: 1}}}}."
                f"{did_you_mean(rule, RULES)}"
            )
        return RATES[rule](sizes)
    found = nested(_group("mixture", rule, tuple(sizes)), sizes)
    if left_out := [name for name, rate in found.items() if rate == 0]:
        raise TaskgroveError(
            f"the mixture gives {listed(left_out)} no rows: give it a weight above 0, or take it"
            " out of the tasks file"
        )
    return {name: found[name] for name in sizes}


def _group(name: str, rule: Any, tasks: tuple[str, ...] = ()) -> Group:
    """A mixture of tasks and groups as a tasks file writes it; `tasks` where it lists none."""
    if isinstance(rule, list):
        rule = {"tasks": rule}
    if not isinstance(rule, Mapping):
        raise TaskgroveError(
            f"{name} must be a list of tasks, or a mapping of {listed(FIELDS)}; got {rule!r}"
        )
    if unknown := [field for field in rule if field not in FIELDS]:
        hint = did_you_mean(unknown[0], FIELDS)
        raise TaskgroveError(
            f"{name} has no field {listed(unknown)}; it has {listed(FIELDS)}.{hint}"
        )
    groups = [_group(inner, spec) for inner, spec in (rule.get("groups") or {}).items()]
    inside = {task for group in groups for task in tasks_of(group)}
    direct = [task for task in rule.get("tasks") or tasks if task not in inside]
    limits = {field: rule[field] for field in ("temperature", "cap", "weights") if field in rule}
    return Group(name, (*direct, *groups), **limits)


def rates_of(task_set: TaskSet) -> dict[str, float]:
    """Rates over all tasks of a task set, as its tasks file asks."""
    sizes = {name: len(task_set.rows(name, "train")) for name in task_set.tasks}
    return task_rates(sizes, task_set.mixture)


def training_mixture(
    task_set: TaskSet, source: Feed, seed: int, rates: Mapping[str, float]
) -> Mixture:
    """A mixture over the training rows of the source's tasks; tables are named by their number."""
    labels = {}
    for table, names in source.tasks.items():
        rows = np.flatnonzero(task_set.tables[table].split == TRAIN)
        labels[str(table)] = Labels(names, source.has[table][rows], rows)
    return Mixture(labels, fixed({name: rates[name] for name in source.targets}), seed)


def drawn(mixture: Mixture, step: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """A step's plan as (table numbers [row], row numbers [row]), the rows of a table together."""
    plan = mixture.draw(step, count)
    tables = np.array([int(name) for name in mixture.tables])[plan.table]
    order = np.argsort(tables, kind="stable")
    return tables[order], plan.row[order]
