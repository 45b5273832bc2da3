"""Points of the simplex {w : w >= 0, sum w = 1}: the nearest one, and the one of least norm.

`project_simplex`: Held, Wolfe, Crowder 1974, Validation of subgradient optimization; Duchi et al.
2008. The nearest point to v is max(v - theta, 0), with theta from the sorted v:
theta = (v_(1) + ... + v_(n) - 1) / n for the largest n with v_(n) > theta.

`min_norm_point`: Wolfe 1976, Finding the nearest point in a polytope: w = argmin w^T M w over the
simplex, M = G G^T. Instead of Wolfe's corral, Lawson and Hanson's reduction of 1974 to a
non-negative quadratic: for a length l, the minimum of |G^T x|^2 + l^2 (1^T x - 1)^2 over x >= 0
is a multiple of w, as for each sum of x the shape w is best. With l the shortest row's length and
x in units of the rows' lengths that is min 1/2 x^T (C + b b^T) x - b^T x, b_t = l / |g_t| <= 1: a
well-scaled problem even where rows are spread by 10^12. At the minimum (M w)_t >= w^T M w for all
t, which bounds how far w^T M w is from the least.

Symbols: K tasks, v, w [task], M [task task] float64. Cost: sorting; one `nonnegative_qp`. Differs
from the papers: the scaling; where w is not unique (0 in the hull of many rows, rows twice), it
does not depend on the rows' order.
"""

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from taskgrove.balancing.dual_cone import nonnegative_qp, unit_rows


def project_simplex(v: Float64[ndarray, " task"]) -> Float64[ndarray, " task"]:
    """The point of the simplex nearest to v.

    >>> project_simplex(np.array([0.5, 1.0, -1.0])).tolist()
    [0.25, 0.75, 0.0]
    """
    v = v - v.max()  # the nearest point stays, and nothing cancels
    ordered = np.sort(v)[::-1]
    theta = (np.cumsum(ordered) - 1.0) / np.arange(1, len(v) + 1)
    return np.maximum(v - theta[np.flatnonzero(ordered > theta)[-1]], 0.0)


def min_norm_point(M: Float64[ndarray, "task task"]) -> Float64[ndarray, " task"]:
    """w = argmin w^T M w over the simplex; zero rows, where there are, share it equally.

    >>> min_norm_point(np.diag([1.0, 4.0])).round(9).tolist()
    [0.8, 0.2]
    """
    zero = M.diagonal() <= 0
    if zero.any():
        return zero / zero.sum()
    C, lengths = unit_rows(M)
    b = lengths.min() / lengths
    w = nonnegative_qp(C + np.outer(b, b), -b[None])[0] * b  # l w = x / length, up to a factor
    return w / w.sum()
