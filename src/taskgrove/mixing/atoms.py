"""Rows that carry the same labels: the atoms from which a mixture draws.

A row of a table may carry labels of several tasks, and lack others. Rows of one table with the
same set of present tasks are alike to a mixture, so they form one atom, and all rates are sums
over atoms.

    w_a = mean over the tasks t that a row of atom a has of  r_t / e_t
    p_a = s_a w_a / sum_b s_b w_b
    E[labels of task t in n draws] = n sum over the atoms a that have t of p_a

r_t: rate of task t [task]; e_t: number of rows that have task t [task]; s_a: number of rows of
atom a [atom]; w_a: weight of each of its rows [atom]; p_a: probability to draw from atom a [atom].

With one task in each table the rates are met exactly (p_t = r_t). With proportional rates every row
is equally likely, however its labels overlap. In tables that are labelled in full, tasks of equal
rates receive equally many labels. Beyond that no rule meets every rate, since a label comes with
its neighbours; `Mixture.expected` says what a mixture gives.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from taskgrove.errors import TaskgroveError


class Labels(NamedTuple):
    """Which training rows of one table have a label of which task."""

    tasks: tuple[str, ...]
    has: Bool[np.ndarray, "row task"]
    rows: Int[np.ndarray, " row"]  # the table's numbers of these rows


@dataclass(frozen=True)
class Atoms:
    table: Int[np.ndarray, " atom"]  # the table's place among the tables
    size: Int[np.ndarray, " atom"]  # how many rows
    start: Int[np.ndarray, " atom"]  # where they begin in `rows`
    rows: Int[np.ndarray, " row"]  # row numbers, atom after atom
    label_atom: Int[np.ndarray, " label"]  # one entry for each pair of an atom
    label_task: Int[np.ndarray, " label"]  # and a task that its rows have


def group(labels: Mapping[str, Labels], tasks: Sequence[str]) -> Atoms:
    """Groups the rows of all tables; rows without any label are left out."""
    place = {task: t for t, task in enumerate(tasks)}
    table, size, rows, label_atom, label_task = [], [], [], [], []
    atoms = 0
    for number, (name, (columns, has, row)) in enumerate(labels.items()):
        if has.shape != (len(row), len(columns)):
            raise TaskgroveError(
                f'The labels of table "{name}" have the shape {has.shape}; '
                f"expected {(len(row), len(columns))}, its rows by its tasks."
            )
        order, first = _alike(has)
        atom, column = np.nonzero(has[order[first]])
        table.append(np.full(len(first), number))
        size.append(np.diff(first, append=len(order)))
        rows.append(row[order])
        label_atom.append(atom + atoms)
        label_task.append(np.array([place[task] for task in columns], int)[column])
        atoms += len(first)
    if atoms == 0:
        raise TaskgroveError("No training row has a label; expected at least one.")
    joined = np.concatenate(rows)
    small = np.can_cast(np.min_scalar_type(joined.max()), np.int32)
    sizes = np.concatenate(size)
    return Atoms(
        table=np.concatenate(table),
        size=sizes,
        start=np.cumsum(sizes) - sizes,
        rows=joined.astype(np.int32 if small else np.int64),
        label_atom=np.concatenate(label_atom),
        label_task=np.concatenate(label_task),
    )


def _alike(has: Bool[np.ndarray, "row task"]) -> tuple[np.ndarray, np.ndarray]:
    """Labelled rows with equal ones side by side, and where in that order each new atom begins."""
    labelled = np.flatnonzero(has.any(axis=1))
    packed = np.packbits(has[labelled], axis=1)  # [row byte]
    order = np.lexsort(packed.T) if packed.size else np.arange(0)
    packed = packed[order]
    new = np.ones(len(order), bool)
    new[1:] = (packed[1:] != packed[:-1]).any(axis=1)
    return labelled[order], np.flatnonzero(new)


def per_task(
    atoms: Atoms, values: Int[np.ndarray, " atom"] | Float[np.ndarray, " atom"], tasks: int
) -> Float[np.ndarray, " task"]:
    """The sum of `values` over the atoms that have each task."""
    return np.bincount(atoms.label_task, values[atoms.label_atom], minlength=tasks)


def probabilities(atoms: Atoms, r: Float[np.ndarray, " task"]) -> Float[np.ndarray, " atom"]:
    """The probability `p` of each atom under the rates `r`."""
    e = per_task(atoms, atoms.size, len(r))
    each = np.divide(r, e, out=np.zeros_like(r), where=e > 0)  # [task]
    w = np.bincount(atoms.label_atom, each[atoms.label_task]) / np.bincount(atoms.label_atom)
    p = atoms.size * w
    return p / p.sum()


def fingerprint(atoms: Atoms, names: Sequence[str]) -> int:
    """A number that changes when a row, a label or one of the names does."""
    digest = blake2b(repr(tuple(names)).encode(), digest_size=7)
    for array in (atoms.table, atoms.size, atoms.rows, atoms.label_atom, atoms.label_task):
        digest.update(np.ascontiguousarray(array).data)
    return int.from_bytes(digest.digest(), "little")
