"""Obvious twins of `merging.aligned.permutations` and `rebasin`: loops and all permutations."""

from itertools import permutations, product

import numpy as np


def move(x, dims, pi, groups):
    """Number by number: where does each number of the result come from?"""
    out = np.empty_like(x)
    for place in np.ndindex(*x.shape):
        source = []
        for at, g in zip(place, dims, strict=True):
            outer = tuple(place[dims.index(parent)] for parent in groups[g].parents)
            source.append(pi[g][(*outer, at)] if g in pi else at)
        out[place] = x[tuple(source)]
    return out


def best_heads(pairs, heads, size):
    """The largest sum of <a, pi b> over orders of heads and of the numbers in each; [head size]."""
    best = -np.inf
    orders = [list(p) for p in permutations(range(size))]
    for outer in permutations(range(heads)):
        for inner in product(orders, repeat=heads):
            rows = np.concatenate(
                [h * size + np.array(q) for h, q in zip(outer, inner, strict=True)]
            )
            best = max(best, sum((a * b[rows]).sum() for a, b in pairs))
    return best
