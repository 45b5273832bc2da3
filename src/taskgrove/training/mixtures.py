"""The mixture that a run draws from: a task set's labels and the rates its tasks file asks for."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from taskgrove.errors import TaskgroveError, did_you_mean, listed
from taskgrove.mixing import RATES, Labels, Mixture, fixed, rates
from taskgrove.tasks.task_set import TRAIN, TaskSet
from taskgrove.training.batch import Feed

Rule = str | Mapping[str, Any] | None
RULES = ("uniform", "proportional")


def task_rates(sizes: Mapping[str, int], rule: Rule) -> dict[str, float]:
    """Rates over the tasks of `sizes` [rows] by the `mixture:` of a tasks file; default uniform.

    >>> task_rates({"a": 300, "b": 100}, "proportional")
    {'a': 0.75, 'b': 0.25}
    """
    if rule is None:
        return RATES["uniform"](sizes)
    if isinstance(rule, str):
        if rule not in RULES:
            raise TaskgroveError(
                f'mixture: "{rule}" is not known (it is uniform, proportional, {{temperature: 2,'
                f" cap: 10000}} or {{weights: {{task: 1}}}}).{did_you_mean(rule, RULES)}"
            )
        return RATES[rule](sizes)
    known = ("temperature", "cap", "weights")
    if unknown := [name for name in rule if name not in known]:
        hint = did_you_mean(unknown[0], known)
        raise TaskgroveError(
            f"mixture has no field {listed(unknown)}; it has {listed(known)}.{hint}"
        )
    found = rates(sizes, **rule)
    if left_out := [name for name, rate in found.items() if rate == 0]:
        raise TaskgroveError(
            f"the mixture gives {listed(left_out)} no rows: give it a weight above 0, or take it"
            " out of the tasks file"
        )
    return found


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
