"""Rules (see `axis_rules`) for operations that only move numbers: reshape, slice, join, expand."""

from collections.abc import Sequence

from torch import Tensor

from taskgrove.merging.aligned.axes import (
    TORN,
    Axis,
    Label,
    cut,
    extent,
    freeze,
    fresh,
    resolve,
    split,
    summed,
    unify,
)
from taskgrove.merging.aligned.axis_rules import Arguments, Labels, Rule, broadcast, same


def view(t: Labels, a: Arguments, out: Sequence[Tensor]) -> list[Label]:
    """Factors are dealt out again in order; an atom that spans two dimensions is split."""
    x = t.label(a["self"])
    return [_dealt(tuple(atom for axis in x for atom in axis), out[0].shape)]


def _dealt(atoms: Axis, shape: Sequence[int]) -> Label:
    left, label = resolve(atoms), []
    for n in shape:
        axis: Axis = ()
        while (missing := n // max(1, extent(axis))) > 1:
            left = resolve(left)
            if not left or (missing % left[0].size and left[0].size % missing):
                for each in (atoms, *label):
                    freeze(each, TORN)
                return tuple(fresh(size, TORN) for size in shape)
            if left[0].size > missing:
                split(left[0], missing)
                left = resolve(left)
            axis, left = (*axis, left[0]), left[1:]
        label.append(axis)
    return tuple(label)


def transpose(t: Labels, a: Arguments, out: Sequence[Tensor]) -> list[Label]:
    """Two dimensions change places; `t` those of a matrix."""
    x = list(t.label(a["self"]))
    if len(x) > 1:
        i, j = a.get("dim0", 0), a.get("dim1", 1)
        x[i], x[j] = x[j], x[i]
    return [tuple(x)] * len(out)


def permute(t: Labels, a: Arguments, _: Sequence[Tensor]) -> list[Label]:
    """Dimensions in another order."""
    x = t.label(a["self"])
    return [tuple(x[n] for n in a["dims"])]


def unsqueeze(t: Labels, a: Arguments, _: Sequence[Tensor]) -> list[Label]:
    """A dimension of size 1 more."""
    x = t.label(a["self"])
    dim = a["dim"] % (len(x) + 1)
    return [(*x[:dim], (), *x[dim:])]


def squeeze(t: Labels, a: Arguments, _: Sequence[Tensor]) -> list[Label]:
    """Dimensions of size 1 fewer."""
    x, shape = t.label(a["self"]), a["self"].shape
    given = a.get("dim", range(len(x)))
    dims = {n % len(x) for n in ([given] if isinstance(given, int) else given)} if x else set()
    return [tuple(axis for n, axis in enumerate(x) if n not in dims or shape[n] != 1)]


def expand(t: Labels, a: Arguments, out: Sequence[Tensor]) -> list[Label]:
    """Copies along a dimension are alike, so that its order is free."""
    x, shape = t.label(a["self"]), out[0].shape
    padded = ((),) * (len(shape) - len(x)) + x
    sizes = (1,) * (len(shape) - len(x)) + tuple(a["self"].shape)
    return [
        tuple(
            axis if size == n else fresh(n)
            for axis, size, n in zip(padded, sizes, shape, strict=True)
        )
    ]


def repeat(t: Labels, a: Arguments, _: Sequence[Tensor]) -> list[Label]:
    """Copies one after the other: the copy is the outer factor."""
    x, times = t.label(a["self"]), a["repeats"]
    padded = ((),) * (len(times) - len(x)) + x
    return [tuple((*fresh(n), *axis) for n, axis in zip(times, padded, strict=True))]


def select(t: Labels, a: Arguments, _: Sequence[Tensor]) -> list[Label]:
    """One position of a dimension."""
    x = t.label(a["self"])
    dim = a["dim"] % len(x)
    return [_position(t, x, dim, a["index"] % a["self"].shape[dim])]


def unbind(t: Labels, a: Arguments, out: Sequence[Tensor]) -> list[Label]:
    """All positions of a dimension."""
    x = t.label(a["self"])
    return [_position(t, x, a["dim"] % len(x), n) for n in range(len(out))]


def _position(t: Labels, x: Label, dim: int, n: int) -> Label:
    """Where Q, K, V (or experts) are stacked, each has an order of its own: an instance."""
    outer, others = resolve(x[dim]), (*x[:dim], *x[dim + 1 :])
    inside = [
        atom
        for axis in others
        for atom in resolve(axis)
        if atom.parts is None and len(outer) == 1 and outer[0] in resolve(tuple(atom.outer))
    ]
    if not inside or outer[0].parts is not None:
        cut(x[dim], n, n + 1)
        return others
    known = {atom: t.instance(atom, outer[0], n) for atom in inside}
    return tuple(
        tuple(each for atom in resolve(axis) for each in known.get(atom, (atom,)))
        for axis in others
    )


def slices(t: Labels, a: Arguments, out: Sequence[Tensor]) -> list[Label]:
    """A range of a dimension."""
    x = t.label(a["self"])
    dim, size = a["dim"] % len(x), a["self"].shape[a["dim"]]
    start, stop, step = slice(a["start"], a["end"], a["step"]).indices(size)
    if step == 1:
        return [(*x[:dim], cut(x[dim], start, max(start, stop)), *x[dim + 1 :])]
    freeze(x[dim], TORN)
    return [(*x[:dim], fresh(out[0].shape[dim], TORN), *x[dim + 1 :])]


def pieces(t: Labels, a: Arguments, out: Sequence[Tensor]) -> list[Label]:
    """Ranges of a dimension, all of them."""
    x, at, found = t.label(a["self"]), 0, []
    dim = a["dim"] % len(x)
    for each in out:
        n = each.shape[dim]
        found.append((*x[:dim], cut(x[dim], at, at + n), *x[dim + 1 :]))
        at += n
    return found


def glu(t: Labels, a: Arguments, _: Sequence[Tensor]) -> list[Label]:
    """Two halves of a dimension, multiplied."""
    x = t.label(a["self"])
    dim, half = a["dim"] % len(x), extent(x[a["dim"]]) // 2
    first, second = cut(x[dim], 0, half), cut(x[dim], half, 2 * half)
    unify(first, second)
    return [(*x[:dim], first, *x[dim + 1 :])]


def cat(t: Labels, a: Arguments, _: Sequence[Tensor]) -> list[Label]:
    """One after the other: a sum."""
    labels = [t.label(x) for x in a["tensors"] if 0 not in x.shape]
    dim = a.get("dim", 0) % len(labels[0])
    rest = broadcast([(*x[:dim], (), *x[dim + 1 :]) for x in labels])
    return [(*rest[:dim], summed([x[dim] for x in labels]), *rest[dim + 1 :])]


def stack(t: Labels, a: Arguments, _: Sequence[Tensor]) -> list[Label]:
    """One after the other along a new dimension."""
    labels = [t.label(x) for x in a["tensors"]]
    dim = a.get("dim", 0) % (len(labels[0]) + 1)
    rest = broadcast(labels)
    return [(*rest[:dim], summed([()] * len(labels)), *rest[dim:])]


SHAPE_RULES: dict[str, Rule] = {
    "permute": permute,
    "unsqueeze": unsqueeze,
    "squeeze": squeeze,
    "expand": expand,
    "repeat": repeat,
    "select": select,
    "unbind": unbind,
    "slice": slices,
    "glu": glu,
    "cat": cat,
    "stack": stack,
} | dict.fromkeys(("t", "t_", "transpose", "transpose_"), transpose)
SHAPE_RULES |= dict.fromkeys(
    ("split", "split_with_sizes", "unsafe_split", "unsafe_split_with_sizes"), pieces
)
SHAPE_RULES |= dict.fromkeys(("view", "_unsafe_view", "reshape", "_reshape_alias"), view)
SHAPE_RULES |= dict.fromkeys(
    ("detach", "alias", "_to_copy", "clone", "lift_fresh", "zero_", "fill_"), same
)
