"""The labels that a task can learn: those that training rows have, in natural order.

A label that occurs once, or never in training, is an error or dropped, as the tasks file says.
Symbols: seen int64 [split name], how many rows of a split carry a label.
"""

import math
import re

import numpy as np

from taskgrove.errors import TaskgroveError, listed
from taskgrove.tasks.schema import TaskSpec
from taskgrove.tasks.split_names import SPLITS, TRAIN
from taskgrove.tasks.targets import Labels, keep_rows


def vocabulary(
    task: str, spec: TaskSpec, labels: Labels, split: np.ndarray
) -> tuple[Labels, list[str]]:
    """Labels over the names that training rows have, in natural order; notes on those dropped."""
    part = split[labels.rows]
    seen = np.stack([_count(spec, labels, part == s) for s in range(len(SPLITS))])  # [split name]
    rare = (seen.sum(0) == 1) | (seen[TRAIN] == 0)
    notes: list[str] = []
    if rare.any():
        if spec.on_rare == "error":
            raise _rare(task, labels, seen)
        dropped = [labels.names[n] for n in np.flatnonzero(rare)]
        notes.append(
            f'task "{task}": {len(dropped)} of {len(rare)} labels dropped (on_rare: drop), as they '
            f"occur once or never in train: {listed(dropped)}, {seen[:, rare].sum()} rows"
        )
    order = sorted(np.flatnonzero(~rare), key=lambda n: natural(labels.names[n]))
    names = tuple(labels.names[n] for n in order)
    if spec.kind == "labels":
        return Labels(labels.rows, labels.values[:, order], names), notes
    new = np.full(len(rare), -1, np.int32)
    new[order] = np.arange(len(order))
    codes = new[labels.values]
    return keep_rows(Labels(labels.rows, codes, names), codes >= 0), notes


def _count(spec: TaskSpec, labels: Labels, mask: np.ndarray) -> np.ndarray:
    if spec.kind == "labels":
        return labels.values[mask].sum(0, dtype=np.int64)
    return np.bincount(labels.values[mask], minlength=len(labels.names))


def _rare(task: str, labels: Labels, seen: np.ndarray) -> TaskgroveError:
    single = [labels.names[n] for n in np.flatnonzero(seen.sum(0) == 1)]
    if single:
        several = f"{len(single)} labels occur" if len(single) > 1 else "a label occurs"
        hint = ""
        if len(single) > 0.2 * len(labels.rows) and all(_is_float(name) for name in labels.names):
            hint = " (if they are amounts, set kind: number)"
        return TaskgroveError(
            f'task "{task}": {several} in one row only ({listed(single, 4)}), too few to learn and '
            f"to test; add rows, or set on_rare: drop to leave such rows out{hint}"
        )
    n = int(np.flatnonzero(seen[TRAIN] == 0)[0])
    places = [f"{SPLITS[s]} ({seen[s, n]} rows)" for s in (1, 2) if seen[s, n]]
    more = int((seen[TRAIN] == 0).sum()) - 1
    also = f" (and {more} more labels alike)" if more else ""
    return TaskgroveError(
        f'task "{task}": the label "{labels.names[n]}"{also} is in {" and ".join(places)} but '
        "never in train, so it cannot be learnt; add training rows, or set on_rare: drop to "
        "leave such rows out"
    )


def natural(name: str) -> tuple[float, list[tuple[int, float, str]]]:
    """Sorts numbers by value, before words; words by their text and the numbers in it.

    >>> sorted(["10", "9", "b", "a10", "a9", "-1"], key=natural)
    ['-1', '9', '10', 'a9', 'a10', 'b']
    """
    if _is_float(name):
        return (float(name), [(0, 0.0, name)])
    parts = re.split(r"(\d+)", name)
    return (math.inf, [(1, float(p), p) if p.isdecimal() else (2, 0.0, p) for p in parts if p])


def _is_float(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
