"""Axes: what a dimension of a tensor is made of, so that two dimensions can be told to be one.

A dimension is a product of atoms: one of 12 heads x 64 numbers is (H, D), H outer. An atom is
plain, or turned out to be another product (`same`), or is a sum of parts that lie one after the
other (a fused QKV matrix: three). `unify` says that two dimensions permute together; `split` and
`cut` take an atom apart and everybody who holds it sees that. A frozen atom never permutes; what
does not fit is frozen with the reason, never guessed. A dimension of size 1 is the empty product.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from math import prod


@dataclass(eq=False)
class Atom:
    """A factor of a dimension; equal only to itself."""

    size: int
    frozen: str = ""  # why it may not permute; empty: it may
    same: "tuple[Atom, ...] | None" = None
    parts: "list[tuple[Atom, ...]] | None" = None
    outer: "frozenset[Atom]" = field(default_factory=frozenset)  # it was split off from these


Axis = tuple[Atom, ...]
Label = tuple[Axis, ...]  # one of each dimension of a tensor
Ranges = tuple[tuple[tuple[int, ...], int, int, int], ...]  # (shape, dimension, start, stop)
Stacked = Mapping[Atom, Mapping[Atom, Sequence[Axis]]]
TORN = "its numbers are grouped in two ways that do not fit"


def fresh(size: int, frozen: str = "") -> Axis:
    """A dimension about which nothing is known yet."""
    return () if size == 1 else (Atom(size, frozen),)


def extent(axis: Axis) -> int:
    """How many positions it has."""
    return prod(atom.size for atom in axis)


def resolve(axis: Axis) -> Axis:
    """The atoms as they are known by now, plain or sums."""
    found: list[Atom] = []
    for atom in axis:
        found += (atom,) if atom.same is None else resolve(atom.same)
    return tuple(found)


def leaves(axis: Axis) -> Iterator[Atom]:
    """All plain atoms, those of parts too."""
    for atom in resolve(axis):
        if atom.parts is None:
            yield atom
        for part in atom.parts or ():
            yield from leaves(part)


def freeze(axis: Axis, why: str) -> None:
    """Forbids permuting it; the first reason stays."""
    for atom in leaves(axis):
        atom.frozen = atom.frozen or why


def unify(x: Axis, y: Axis) -> None:
    """The two dimensions permute together from now on."""
    x, y = resolve(x), resolve(y)
    while x and y:
        a, b = x[0], y[0]
        if a.size == b.size:
            _join(a, b)
            x, y = resolve(x[1:]), resolve(y[1:])
        elif max(a.size, b.size) % max(1, min(a.size, b.size)):
            break
        else:
            split(*((a, b.size) if a.size > b.size else (b, a.size)))
            x, y = resolve(x), resolve(y)
    freeze((*x, *y), TORN)


def _join(a: Atom, b: Atom) -> None:
    if a is b:
        return
    if a.parts is None and b.parts is not None:
        a, b = b, a
    a.outer |= b.outer
    if a.parts is None or b.parts is None:
        b.same = (a,)
        if why := a.frozen or b.frozen:
            freeze((a,), why)
        return
    for edge in _edges(a):
        _edge(b, edge)
    for edge in _edges(b):
        _edge(a, edge)
    theirs, b.parts, b.same = b.parts, None, (a,)
    for p, q in zip(tuple(a.parts), theirs, strict=True):
        unify(p, q)


def split(atom: Atom, k: int) -> Axis:
    """The atom as a product (outer of size k, inner); k divides its size."""
    outer = Atom(k, atom.frozen, outer=atom.outer)
    inner = Atom(atom.size // k, atom.frozen, outer=atom.outer | {outer})
    parts, atom.parts, atom.same = atom.parts, None, (outer, inner)
    if parts is not None and any(extent(part) % inner.size for part in parts):
        for axis in (*parts, (outer,), (inner,)):
            freeze(axis, TORN)
    elif parts is not None:
        outer.parts = [fresh(extent(part) // inner.size) for part in parts]
        for rows, part in zip(outer.parts, parts, strict=True):
            unify(part, (*rows, inner))
    return outer, inner


def cut(axis: Axis, start: int, stop: int) -> Axis:
    """The positions start..stop of a dimension."""
    axis = resolve(axis)
    if (start, stop) == (0, extent(axis)):
        return axis
    row = extent(axis[1:])
    if start >= stop or start % row or stop % row:
        freeze(axis, TORN)
        return fresh(stop - start, TORN)
    return (*_cut(axis[0], start // row, stop // row), *axis[1:])


def _cut(atom: Atom, start: int, stop: int) -> Axis:
    _edge(atom, start)
    _edge(atom, stop)
    if atom.parts is None:
        return (atom,)
    begins = accumulate((extent(part) for part in atom.parts), initial=0)
    return summed([p for p, at in zip(atom.parts, begins, strict=False) if start <= at < stop])


def summed(parts: list[Axis]) -> Axis:
    """Parts that lie one after the other, as one dimension."""
    if len(parts) == 1:
        return parts[0]
    return (Atom(sum(extent(part) for part in parts), parts=parts),)


def _edges(atom: Atom) -> list[int]:
    return list(accumulate(extent(part) for part in atom.parts or ()))


def _edge(atom: Atom, edge: int) -> None:
    """Makes `edge` a place where a part ends."""
    if edge in (0, atom.size):
        return
    if atom.parts is None:
        sizes = (edge, atom.size - edge)
        atom.parts = [fresh(size, atom.frozen) for size in sizes]
        return
    for n, at in enumerate(accumulate((extent(part) for part in atom.parts), initial=0)):
        if n < len(atom.parts) and at < edge < at + extent(part := atom.parts[n]):
            pieces = [cut(part, 0, edge - at), cut(part, edge - at, extent(part))]
            atom.parts[n : n + 1] = pieces
            return


def blocks(label: Label, stacked: Stacked) -> list[tuple[Ranges, Axis]]:
    """A tensor as blocks without sums: where each is, and its atoms over all dimensions.

    `stacked` says of an outer atom which inner ones have an order of their own at each of its
    positions. A sum in which nothing may move stays one atom.
    """
    done: list[tuple[Ranges, Axis]] = []
    left: list[tuple[Ranges, Axis]] = [
        ((), resolve(tuple(atom for axis in label for atom in axis)))
    ]
    while left:
        ranges, atoms = left.pop()
        at = next((n for n, atom in enumerate(atoms) if _apart(atom, atoms, stacked)), None)
        if at is None:
            done.append((ranges, atoms))
            continue
        shape, begin = tuple(atom.size for atom in atoms), 0
        known = stacked.get(atoms[at], {})
        for n, part in enumerate(atoms[at].parts or [()] * atoms[at].size):
            end = begin + extent(part)
            swapped = [known[atom][n] if atom in known else (atom,) for atom in atoms]
            swapped[at] = part
            inner = resolve(tuple(atom for axis in swapped for atom in axis))
            left.append(((*ranges, (shape, at, begin, end)), inner))
            begin = end
    return done


def _apart(atom: Atom, atoms: Axis, stacked: Stacked) -> bool:
    """Whether something differs between its parts or positions."""
    if atom.parts is not None:
        return not all(leaf.frozen for leaf in leaves((atom,)))
    return any(each in stacked.get(atom, {}) for each in atoms)
