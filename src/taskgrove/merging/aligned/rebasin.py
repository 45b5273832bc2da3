"""Git Re-Basin: hidden units of models without a common base are brought into one order.

Ainsworth, Hayase, Srinivasa, "Git Re-Basin: Merging Models modulo Permutation Symmetries", ICLR
2023, arXiv 2209.04836. A network's function does not change when its hidden units are permuted, so
two training runs may have found the same units in different orders. Weight matching (section 3.2,
algorithm 1) looks for the order of B's units in which its weights lie nearest to A's.

    argmax_pi  <vec(Theta_A), vec(pi(Theta_B))>              pi: a permutation P_g of every group g
    with all but one group held:  P_g <- argmax_P <P, C_g>,  C_g[i, j] = sum over the blocks that
        have g of <A[i], pi(B)[j]>                           a linear assignment problem
    C_h[i, j] += max_Q <A[h=i], Q B[h=j]>                    Q: groups within h, such as the
                                                             numbers within a head
    MergeMany (algorithm 3):  Theta_i <- pi(Theta_i) to match the mean of the others, until none
        changes

    Theta: named tensors [...]; P_g: [group]; C_g: [group group], float64; groups in random order

Differences from the paper: groups within groups (its text has none), each pair of outer positions
solved on its own, so that outer and inner are found together; a step is taken only if the
objective grows, also where a group has two dimensions of one tensor. Batch norm's statistics move
along but do not count. Cost of a sweep: an n^3 assignment and a matrix product a group; of heads,
h^2 small ones.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from taskgrove.merging.aligned.permutations import (
    Array,
    Group,
    Permutations,
    State,
    Symmetries,
    check,
    move,
    partner,
    permuted,
    view,
)

LEAST = 1e-6  # of the norms: gains below are rounding
SETTLED = -1  # a dimension that has no part in a search


@dataclass(frozen=True)
class Pair:
    """The same block of two models; `dims` are its groups."""

    a: Array
    b: Array
    dims: tuple[int, ...]


@dataclass(frozen=True)
class Search:
    """What all levels of a search share; `inner` are the groups directly within a group."""

    groups: Sequence[Group]
    inner: Mapping[int, Sequence[int]]
    rng: np.random.Generator
    sweeps: int

    def within(self, g: int) -> list[int]:
        """All groups within g, outer ones first."""
        return [each for n in self.inner[g] for each in (n, *self.within(n))]


def weight_matching(
    symmetries: Symmetries, a: State, b: State, seed: int = 0, sweeps: int = 100
) -> Permutations:
    """The permutations that bring b's units into a's order; `permuted` applies them."""
    check(symmetries.shapes, [a, b])
    groups = symmetries.groups
    inner: dict[int, list[int]] = {n: [] for n in range(len(groups))}
    for n, group in reversed(list(enumerate(groups))):  # inner ones come last
        if group.parents and (inner[n] or not group.frozen):
            inner[group.parents[-1]].append(n)
    search = Search(groups, inner, np.random.default_rng(seed), sweeps)
    level = [n for n, g in enumerate(groups) if not g.parents and (inner[n] or not g.frozen)]
    pairs = [
        Pair(view(a[name], block, groups), view(b[name], block, groups), block.groups)
        for block in symmetries.blocks
        if not block.statistic and (name := next((n for n in block.names if n in a), None))
    ]
    return _descend(search, pairs, level)


def merge_many(
    symmetries: Symmetries, models: Sequence[State], seed: int = 0, rounds: int = 50
) -> list[State]:
    """All models in one order: two are matched to the first, more to the mean of the others."""
    check(symmetries.shapes, models)
    found, rng = list(models), np.random.default_rng(seed)
    if len(found) == 2:
        pi = weight_matching(symmetries, found[0], found[1], seed)
        return [found[0], permuted(symmetries, pi, found[1])]
    for _ in range(rounds):
        changed = False
        for i in rng.permutation(len(found)):
            mean = _mean(symmetries, [model for n, model in enumerate(found) if n != i])
            pi = weight_matching(symmetries, mean, found[i], int(rng.integers(2**31)))
            changed |= any((p != np.arange(p.shape[-1])).any() for p in pi.values())
            found[i] = permuted(symmetries, pi, found[i])
        if not changed:
            break
    return found


def _mean(symmetries: Symmetries, models: Sequence[State]) -> dict[str, Array]:
    names = [name for name in symmetries.shapes if name in models[0]]
    stacks = {n: np.stack([model[n] for model in models]) for n in names}
    return {n: np.asarray(x.mean(axis=0, dtype=np.float32)) for n, x in stacks.items()}


def _descend(
    search: Search, pairs: Sequence[Pair], level: Sequence[int], trust: bool = False
) -> Permutations:
    """Coordinate descent over the groups of one level, each with all that is within it.

    `trust`: where no two groups meet, the assignment is the optimum and needs no second look.
    """
    known = ((n, g) for g in level for n in (g, *search.within(g)))
    best = {n: _same(search, n, g) for n, g in known if not search.groups[n].frozen}
    least = LEAST * sum(float(np.linalg.norm(p.a)) * float(np.linalg.norm(p.b)) for p in pairs)
    alone = all(sum(each in level for each in pair.dims) < 2 for pair in pairs)
    for _ in range(search.sweeps):
        changed = False
        for g in search.rng.permutation(np.array(level, int)):
            related = [pair for pair in pairs if g in pair.dims]
            step = best | _assign(search, related, int(g), best)
            if (trust and alone) or (
                _value(search, related, step) > _value(search, related, best) + least
            ):
                best, changed = step, True
        if alone or not changed:
            break
    return best


def _same(search: Search, n: int, level: int) -> npt.NDArray[np.int64]:
    """The identity, for each position of the groups between a level and n."""
    parents = search.groups[n].parents
    between = parents[parents.index(level) :] if n != level else ()
    shape = [search.groups[each].size for each in (*between, n)]
    return np.broadcast_to(np.arange(shape[-1]), shape).copy()


def _value(search: Search, pairs: Sequence[Pair], pi: Permutations) -> float:
    moved = (np.vdot(pair.a, move(pair.b, pair.dims, pi, search.groups)) for pair in pairs)
    return sum(float(each) for each in moved)


def _assign(search: Search, pairs: Sequence[Pair], g: int, pi: Permutations) -> Permutations:
    """The best permutation of g and of all within it, the others held."""
    group, within = search.groups[g], search.within(g)
    C = np.zeros((group.size, group.size))  # [group group]
    nested: list[Pair] = []
    for pair in pairs:
        for k in (k for k, each in enumerate(pair.dims) if each == g):
            inside = [n for n, each in enumerate(pair.dims) if each in within]
            keep = [n for n in inside if partner(pair.dims, n, g) == k]
            b = move(pair.b, pair.dims, pi, search.groups, {k, *keep})
            a, b = np.moveaxis(pair.a, k, 0), np.moveaxis(b, k, 0)
            if keep:
                dims = [each if n in keep else SETTLED for n, each in enumerate(pair.dims)]
                nested.append(Pair(a, b, tuple(dims[:k] + dims[k + 1 :])))
            else:
                C += a.reshape(group.size, -1) @ b.reshape(group.size, -1).T
    inner: dict[tuple[int, int], Permutations] = {}
    for i in range(group.size) if nested else ():
        for j in (i,) if group.frozen else range(group.size):
            few = [Pair(pair.a[i], pair.b[j], pair.dims) for pair in nested]
            inner[i, j] = _descend(search, few, search.inner[g], trust=True)
            C[i, j] += _value(search, few, inner[i, j])
    P = np.arange(group.size) if group.frozen else linear_sum_assignment(C, maximize=True)[1]
    found = {} if group.frozen else {g: P.astype(np.int64)}
    for n in (n for n in within if nested and not search.groups[n].frozen):
        found[n] = np.stack([inner[i, int(j)][n] for i, j in enumerate(P)])
    return found
