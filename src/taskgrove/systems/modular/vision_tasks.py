"""Four tasks that share no picture: digits, letters, emoji groups, clip art folders; and Greek.

Digits, emoji (the set `fluent`) and clip art are of the embedded suite, in its splits. A seed draws
which training pictures count and how letters lie.
"""

from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from taskgrove.backbones.pictures import centred
from taskgrove.suites import locate
from taskgrove.systems.modular.letters import GREEK, LATIN, letters
from taskgrove.tasks.task_set import TaskSet, load_tasks

TASKS = ("digits", "letters", "fluent", "clipart")
SPLITS = ("train", "validation", "test")
Split = tuple[Tensor, Tensor]  # pictures [row 3 28 28], labels [row]
Data = dict[str, dict[str, Split]]


@cache
def data(seed: int, quick: bool) -> tuple[Data, dict[str, int]]:
    """{task: {split: rows}} and the number of classes of each task."""
    most, each = (40, 1) if quick else (1000, 4)
    found: Data = {}
    classes: dict[str, int] = {}
    for task in TASKS:
        found[task] = {split: _rows(task, split, each, seed) for split in SPLITS}
        classes[task] = int(max(y.max() for _, y in found[task].values())) + 1
        rng = np.random.default_rng([seed, TASKS.index(task)])
        for split, (x, y) in found[task].items():
            if len(x) > most and (split == "train" or quick):
                rows = torch.from_numpy(rng.permutation(len(x))[:most])
                found[task][split] = x[rows], y[rows]
    return found, classes


def _rows(task: str, split: str, each: int, seed: int) -> Split:
    if task == "letters":
        x, y = letters(LATIN, split, each, seed)
        return centred(torch.from_numpy(x)), torch.from_numpy(y)
    suite = _suite()
    rows = suite.rows(task, split)
    table = suite.tasks[task].table
    pixels: Any = suite.raw(table, rows)["image"]
    return centred(torch.as_tensor(pixels)), torch.as_tensor(suite.target(task)[rows]).long()


def greek(seed: int, quick: bool, shots: int = 10) -> tuple[Split, Split]:
    """A few of each small Greek letter to learn from, and test rows in other fonts."""
    x, y = letters(GREEK, "train", 1, seed)
    rng = np.random.default_rng([seed, 7])
    rows = np.concatenate([rng.permutation(np.flatnonzero(y == n))[:shots] for n in range(24)])
    test = letters(GREEK, "test", 1 if quick else 4, seed)
    return _pair(x[rows], y[rows]), _pair(*test)


def _pair(x: np.ndarray, y: np.ndarray) -> Split:
    return centred(torch.from_numpy(x)), torch.from_numpy(y)


@cache
def _suite() -> TaskSet:
    return load_tasks(locate("pictures"))
