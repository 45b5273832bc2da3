"""A small task may have no row in a split by the luck of the hash; some keys are then moved there.

The keys that the hash puts nearest move first, and they move in every table, so that a key still
never lies in two splits. Symbols: split int8 [row], groups uint64 [row] a table; rows int64 [label]
a task.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from taskgrove.errors import listed
from taskgrove.tasks.split_names import SPLITS, TEST, TRAIN, VALIDATION


def fill_empty_splits(
    splits: Sequence[np.ndarray],
    groups: Sequence[np.ndarray],
    cut: Sequence[frozenset[int]],
    tasks: Mapping[str, tuple[int, np.ndarray]],
    fractions: Sequence[tuple[float, float]],
) -> list[str]:
    """Changes `splits` in place; returns notes.

    `cut` says which parts of a table a hash made, `fractions` are its validation and test; `tasks`
    are the number of the table and the labelled rows by name.
    """
    filled: dict[int, list[str]] = {VALIDATION: [], TEST: []}
    index: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None
    for name, (table, rows) in tasks.items():
        for part, fraction in ((TEST, fractions[table][1]), (VALIDATION, fractions[table][0])):
            split = splits[table][rows]
            if part not in cut[table] or (split == part).any():
                continue
            keys = np.unique(groups[table][rows[split == TRAIN]])  # nearest to the threshold first
            move = keys[: max(1, round(fraction * len(keys)))]
            if len(keys) < 3:
                continue
            index = index or _index(groups)
            _move(move, part, splits, cut, index)
            filled[part].append(name)
    return [
        f"{len(names)} small tasks had no row in {SPLITS[part]} by hash; some keys were moved "
        f"there from train: {listed(names)}"
        for part, names in filled.items()
        if names
    ]


def _index(groups: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All keys sorted, with the table and the row of each."""
    keys = np.concatenate(groups)
    order = np.argsort(keys, kind="stable")
    table = np.repeat(np.arange(len(groups)), [len(g) for g in groups])
    row = np.concatenate([np.arange(len(g)) for g in groups])
    return keys[order], table[order], row[order]


def _move(
    keys: np.ndarray,
    part: int,
    splits: Sequence[np.ndarray],
    cut: Sequence[frozenset[int]],
    index: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    known, tables, rows = index
    ends = zip(
        np.searchsorted(known, keys, "left"), np.searchsorted(known, keys, "right"), strict=True
    )
    for start, end in ends:
        for table, row in zip(tables[start:end], rows[start:end], strict=True):
            if part in cut[table] and splits[table][row] == TRAIN:
                splits[table][row] = part
