"""Convex quadratics over non-negative vectors, and the projection on a dual cone.

For rows g_t, M = G G^T, the dual cone holds the directions that harm no row, {d : G d >= 0}; a
direction d_0 = G^T u projects on it with weights v (Moreau: its error lies in the cone of rows):

    v = argmin v^T M v  over  v >= u;   at v:  M v >= 0,  (v - u) . M v = 0.

With x = v - u it is the core here, `nonnegative_qp`: min 1/2 x^T H x + q^T x over x >= 0. Its
gradient y = H x + q has y >= 0, x . y = 0 at the minimum. Three stages, each cheap by itself:

1. a few steps of the alternating direction method of multipliers (Boyd et al. 2011) on all
   problems at once, one matrix product a step, find nearly all of the zeros;
2. projected Newton (Bertsekas 1982, Projected Newton methods for optimization problems with simple
   constraints): p_F = -(H_FF + delta)^{-1} y_F on the set F that is not held at zero, then the
   longest of the steps max(0, x + p / 2^k) that descends enough; delta makes it a proximal step,
   so singular H_FF move only in the directions that matter;
3. what stalls (ill-conditioned, degenerate) goes to Lawson and Hanson's active set (Solving Least
   Squares Problems 1974, algorithm NNLS) on the proximal problems, one index a step.

Rows are divided by their lengths first, so rows may be spread by many orders of magnitude: all
tolerances are those of rounding, a row. Negative eigenvalues of M are rounding of its entries and
are lifted to 0. Symbols: K tasks, M, H [task task]; u, v, x, q, y [problem task] float64. Cost:
stage 2 takes K^3 / 3 a problem and step, 3 to 6 steps. Differs from the papers: the warm start,
delta, and several problems with one H.
"""

import numpy as np
from jaxtyping import Bool, Float64
from numpy import ndarray
from scipy.linalg import get_lapack_funcs

POSV, POTRS = get_lapack_funcs(("posv", "potrs"), dtype="d")  # Cholesky; its factor again
EPS = float(np.finfo(np.float64).eps)
DELTA = 1e-8  # of the unit diagonal; rounding moves undetermined directions by about EPS / DELTA
WARM, NEWTON, SMALL_STEPS = 20, 12, 20


def unit_rows(M: Float64[ndarray, "task task"]) -> tuple[ndarray, ndarray]:
    """C = D^{-1} M D^{-1}, without negative eigenvalues, and the rows' lengths, D's diagonal.

    A zero row counts as a unit row orthogonal to all others.
    """
    zero = M.diagonal() <= 0
    lengths = np.sqrt(np.where(zero, 1.0, M.diagonal()))
    C = M / np.outer(lengths, lengths)
    C[zero, :] = C[:, zero] = 0.0
    np.fill_diagonal(C, 1.0)
    lowest = np.linalg.eigvalsh(C)[0]
    np.fill_diagonal(C, 1.0 + max(0.0, -float(lowest)))
    return C, lengths


def dual_cone_weights(
    M: Float64[ndarray, "task task"], U: Float64[ndarray, "problem task"]
) -> Float64[ndarray, "problem task"]:
    """V: G^T v is the projection of G^T u on {d : G d >= 0}, a row of U and V each."""
    C, lengths = unit_rows(M)
    return U + nonnegative_qp(C, (U * lengths) @ C) / lengths


def nonnegative_qp(
    H: Float64[ndarray, "task task"], Q: Float64[ndarray, "problem task"]
) -> Float64[ndarray, "problem task"]:
    """X >= 0, each row x the minimum of 1/2 x^T H x + q^T x with its row q of Q.

    H: positive semi-definite, diagonal about 1, each q such that the minimum exists. Where the
    minimum is not unique, x does not depend on the order of the tasks.
    """
    X = np.zeros_like(Q)
    conflicts = np.flatnonzero((Q < 0).any(1))  # else x = 0
    if len(conflicts):
        Q = Q[conflicts]
        found, stalled = _projected_newton(H, Q, _warm_start(H, Q))
        for problem in stalled:
            found[problem] = _active_set(H, Q[problem], found[problem])
        X[conflicts] = found
    return X


def _warm_start(H: ndarray, Q: ndarray, rho: float = 0.5) -> ndarray:
    """The ADMM's z >= 0 after WARM steps."""
    inverse = np.linalg.inv(H + rho * np.eye(len(H)))
    Z = W = np.zeros_like(Q)
    for _ in range(WARM):
        X = (rho * (Z - W) - Q) @ inverse + W
        Z = np.maximum(X, 0.0)
        W = X - Z
    return Z


def _rounding(H: ndarray, Q: ndarray, X: ndarray) -> ndarray:
    """What rounding can do to y = H x + q, where y is not large. [problem]"""
    return 32 * EPS * ((X @ np.abs(H)).max(1) + np.maximum(-Q, 0.0).max(1))


def _projected_newton(H: ndarray, Q: ndarray, X: ndarray) -> tuple[ndarray, ndarray]:
    """X after at most NEWTON steps, and the numbers of the problems that are not solved yet."""
    X, left = X.copy(), np.arange(len(Q))
    for _ in range(NEWTON):
        x = X[left]
        y = x @ H + Q[left]
        error = np.abs(np.minimum(x, y)).max(1)
        open_ = error > _rounding(H, Q[left], x)
        left, x, y, error = left[open_], x[open_], y[open_], error[open_]
        if not len(left):
            break
        near = np.minimum(error, -1e-3 * Q[left].min(1))[:, None]
        held = (x <= near) & (y > 0)
        X[left] = _descend(H, x, y, _newton_step(H, y, ~held))
    return X, left


def _newton_step(H: ndarray, Y: ndarray, free: Bool[ndarray, "problem task"]) -> ndarray:
    """p_F = -(H_FF + delta)^{-1} y_F, and p = -y elsewhere."""
    P, damped = -Y, H + DELTA * np.eye(len(H))
    for p, F in zip(P, free, strict=True):
        F = np.flatnonzero(F)
        if len(F):
            factor, s, failed = POSV(damped.take(F, 0).take(F, 1), p[F], overwrite_a=1)
            if not failed:
                p[F] = s + POTRS(factor, DELTA * s)[0]  # the proximal step after it, on the same F
    return P


def _descend(H: ndarray, X: ndarray, Y: ndarray, P: ndarray) -> ndarray:
    """max(0, x + p / 2^k) with the smallest k that descends enough (Armijo), else x."""
    new, left = X.copy(), np.arange(len(X))
    for k in range(SMALL_STEPS):
        step = np.maximum(X[left] + P[left] / 2**k, 0.0) - X[left]
        slope = (step * Y[left]).sum(1)
        enough = slope + (step * (step @ H)).sum(1) / 2 <= 1e-4 * slope
        new[left[enough]] += step[enough]
        left = left[~enough]
        if not len(left):
            break
    return new


def _active_set(H: ndarray, q: ndarray, x: ndarray) -> ndarray:
    """Proximal steps x <- argmin 1/2 x^T H x + q^T x + delta/2 |x - x_before|^2 over x >= 0."""
    for delta in (DELTA, DELTA, *(DELTA / 100**k for k in (1, 2, 3, 3))):
        before = x
        x = _lawson_hanson(H + delta * np.eye(len(H)), q - delta * before, before)
        if delta * np.abs(x - before).max() <= _rounding(H, q[None], x[None])[0]:
            break
    return x


def _lawson_hanson(H: ndarray, q: ndarray, x: ndarray) -> ndarray:
    """The minimum for a positive definite H, from x >= 0 on."""
    x, K = x.copy(), len(q)
    F = x > 0
    entered = -1
    for _ in range(4 * K):
        target = np.zeros(K)
        if F.any():
            _, target[F], failed = POSV(H[np.ix_(F, F)], -q[F])
            if failed:
                break
        blocking = F & (target <= 0)
        if blocking.any():  # go as far as x >= 0 allows, and hold what is met
            ratio = np.where(blocking, x / np.where(blocking, x - target, 1.0), np.inf)
            x = np.where(F, np.maximum(x + ratio.min() * (target - x), 0.0), 0.0)
            F = F & (ratio > ratio.min()) & ((x > 0) | (target > 0))
            if entered >= 0 and not F[entered]:  # no descent left but rounding's
                break
            continue
        x = target
        y = np.where(F, 0.0, H @ x + q)
        entered = int(y.argmin())
        if y[entered] >= -_rounding(H, q[None], x[None])[0]:
            break
        F[entered] = True
    return x
