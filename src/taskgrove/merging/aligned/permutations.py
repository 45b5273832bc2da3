"""Permutations that leave a model's outputs alone, and how they move its tensors.

A group is a set of positions (hidden units, heads, numbers within a head) that permute together
wherever they occur. A group may have parents: the numbers within a head are permuted differently
in each head, so their permutation has the shape [head number]. A tensor consists of blocks, each a
view with one dimension a group. Arrays only: no torch here.

    moved[i, j, ...] = x[P(i), Q_i(j), ...]      P: [group], Q: [parent group]
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from taskgrove.errors import TaskgroveError, listed

Array = npt.NDArray[Any]
State = Mapping[str, Array]  # a model's tensors by name
Permutations = dict[int, npt.NDArray[np.int64]]  # of each group that moves: [parent ... group]


@dataclass(frozen=True)
class Group:
    """Positions that permute together."""

    size: int
    places: tuple[str, ...]  # where: "layer.weight[0]"
    parents: tuple[int, ...] = ()  # numbers of other groups, outermost first
    frozen: str = ""  # why it stays as it is; empty: it is free


@dataclass(frozen=True)
class Block:
    """A part of a tensor: after each reshape, a range of one dimension."""

    names: tuple[str, ...]  # of the tensor; several where it is tied
    ranges: tuple[tuple[tuple[int, ...], int, int, int], ...]  # (shape, dimension, start, stop)
    groups: tuple[int, ...]  # one a dimension
    statistic: bool = False  # a batch norm's running mean or variance, no weight


@dataclass(frozen=True)
class Symmetries:
    """What may permute in a model, what may not and why."""

    groups: tuple[Group, ...]
    blocks: tuple[Block, ...]
    shapes: Mapping[str, tuple[int, ...]]  # of all tensors that blocks cover

    def free(self) -> list[int]:
        """Numbers of the groups that may permute."""
        return [n for n, group in enumerate(self.groups) if not group.frozen]

    def __str__(self) -> str:
        """One line a group."""
        lines = [
            f"{n}: {g.size}"
            + "".join(f" in each of group {p}" for p in g.parents[::-1])
            + (f", frozen ({g.frozen})" if g.frozen else "")
            + f": {', '.join(g.places[:3])}{' ...' if len(g.places) > 3 else ''}"
            for n, g in enumerate(self.groups)
        ]
        return "\n".join(lines)


def view(x: Array, block: Block, groups: Sequence[Group]) -> Array:
    """The block of a tensor, one dimension a group; writing to it writes to the tensor."""
    for shape, dim, start, stop in block.ranges:
        x = x.reshape(shape)[(slice(None),) * dim + (slice(start, stop),)]
    return x.reshape([groups[g].size for g in block.groups])


def move(
    x: Array,
    dims: Sequence[int],
    permutations: Mapping[int, npt.NDArray[np.int64]],
    groups: Sequence[Group],
    keep: Collection[int] = (),
) -> Array:
    """x [one dimension a group of `dims`], permuted; dimensions `keep` stay as they are."""
    moving = [n for n, group in enumerate(dims) if group in permutations and n not in keep]
    for n in sorted(moving, key=lambda n: len(groups[dims[n]].parents)):  # parents first
        p = permutations[dims[n]]
        if p.ndim == 1:
            x = np.take(x, p, axis=n)
            continue
        outer = groups[dims[n]].parents[-(p.ndim - 1) :]
        axes = [partner(dims, n, parent) for parent in outer] + [n]
        shape = [1] * x.ndim
        for axis in axes:
            shape[axis] = x.shape[axis]
        x = np.take_along_axis(x, p.transpose(np.argsort(axes)).reshape(shape), axis=n)
    return x


def partner(dims: Sequence[int], n: int, parent: int) -> int:
    """The dimension that holds the parent of dimension n: the nearest before it, else after it."""
    before = [m for m in range(n) if dims[m] == parent]
    return before[-1] if before else dims.index(parent, n)


def permuted(
    symmetries: Symmetries,
    permutations: Mapping[int, npt.NDArray[np.int64]],
    state: State,
) -> dict[str, Array]:
    """The whole model, permuted: new arrays for tensors with a group that moves."""
    moved = dict(state)
    for block in symmetries.blocks:
        if not any(group in permutations for group in block.groups):
            continue
        for name in (name for name in block.names if name in state):
            if moved[name] is state[name]:
                moved[name] = np.array(state[name], order="C")
            source = view(np.ascontiguousarray(state[name]), block, symmetries.groups)
            target = view(moved[name], block, symmetries.groups)
            target[...] = move(source, block.groups, permutations, symmetries.groups)
    return moved


def random_permutations(
    symmetries: Symmetries, rng: np.random.Generator, only: Sequence[int] | None = None
) -> Permutations:
    """One of each free group (or of `only` these), different in each of its parents."""
    found: Permutations = {}
    for n in symmetries.free() if only is None else only:
        group = symmetries.groups[n]
        shape = [symmetries.groups[parent].size for parent in group.parents]
        found[n] = rng.permuted(
            np.broadcast_to(np.arange(group.size), (*shape, group.size)), axis=-1
        )
    return found


def check(shapes: Mapping[str, tuple[int, ...]], models: Sequence[State]) -> None:
    """Refuses what cannot be aligned: one model, other shapes, numbers that are not finite."""
    if len(models) < 2:
        raise TaskgroveError(f"got {len(models)} model(s) to align; expected two or more.")
    expected = {n: shape for n, shape in shapes.items() if n in models[0]}
    for k, model in enumerate(models, start=1):
        got = {n: model[n].shape for n in shapes if n in model}
        if wrong := [n for n in shapes if got.get(n) != expected.get(n)]:
            raise TaskgroveError(
                f"model {k} of {len(models)} differs in tensors {listed(wrong, 3)} (the first is"
                f" {_words(got.get(wrong[0]))}, expected {_words(expected.get(wrong[0]))}): only"
                " models of one architecture, whose units stand in another order, can be aligned."
            )
        if bad := [n for n in got if not np.isfinite(model[n]).all()]:
            raise TaskgroveError(
                f"model {k} of {len(models)} has NaN or infinite numbers in tensors"
                f" {listed(bad, 3)}; expected finite weights: use an earlier checkpoint."
            )


def _words(shape: tuple[int, ...] | None) -> str:
    return "missing" if shape is None else str(list(shape))
