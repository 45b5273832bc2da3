"""CAGrad: conflict-averse gradient descent.

Conflict-Averse Gradient Descent for Multi-task Learning, Liu, Liu, Jin, Stone, Liu, NeurIPS 2021,
arXiv 2110.14048.

Idea: near the mean gradient g_0, within c |g_0|, take the direction that improves the worst-off
task most. So the mean loss still descends, and converges to a stationary point of its own.

    d = argmax min_t g_t . d  over  |d - g_0| <= c |g_0|,   g_0 = sum_t share_t g_t;
    the paper's dual: d = g_0 + c |g_0| g_w / |g_w|,   g_w = sum_t w_t g_t,
    w = argmin g_w . g_0 + c |g_0| |g_w|  over  w >= 0, sum w = 1.
    Solved here: d(mu) = the nearest point to g_0 with g_t . d >= mu for all t, mu raised until
    |d(mu) - g_0| = c |g_0|. d(mu) = g_0 + G^T x, x = argmin 1/2 x^T M x + x . (M share - mu 1) over
    x >= 0, and w = x / sum x; mu is then the least of the dual.

Symbols: K tasks; M = G G^T [task task]; share, w, x [task] float64; c, mu, r = c |g_0| numbers.
Returned: (share + x) / (1 + c). share is the preference vector; the paper's own is uniform.
Cost: about 6 quadratic problems, K^3 / 3 a step each; one backward pass a task.
Use it when the mean loss is the goal and the worst-off task should not pay for it; c = 0 is the
mean, c >= 1 harms no task.
Tuned sums do as well when gradients have similar lengths and seldom conflict: d is then close to
g_0, and c is one more number to tune.
Differs from the paper: its algorithm divides d by nothing, its code by 1 + c^2; here the default
is 1 + c, so that weights of agreeing tasks sum to 1 (`divisor`). Where g_w = 0, which leaves d
open, d is the nearest point to g_0 that harms no task. Zero rows take no part.
"""

from math import nan, sqrt
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float64
from numpy import ndarray
from torch import Tensor

from taskgrove.balancing.choice import Choice, on_gramian
from taskgrove.balancing.dual_cone import EPS, nonnegative_qp, unit_rows

STEPS = 40


def cagrad(
    M: Float64[Tensor, "task task"],
    share: Float64[Tensor, " task"],
    c: float = 0.4,
    divisor: Literal["1+c", "1+c^2", "1"] = "1+c",
) -> Float64[Tensor, " task"]:
    """Weights of d; c >= 0."""
    m = M.numpy()
    C, lengths = unit_rows(m)
    used = m.diagonal() > 0
    u = np.where(used, share.numpy() * lengths, 0.0)  # g_0 = sum_t u_t g_t / |g_t|
    square = float(u @ C @ u)
    if len(m) == 1 or c == 0 or square <= 4 * len(m) * EPS * u.sum() ** 2:  # then g_0 = 0
        return share.clone()
    b = np.where(used, lengths[used].min() / lengths, 0.0)
    x = _within(C, C @ u, b, c * sqrt(square)) / lengths
    by = {"1+c": 1 + c, "1+c^2": 1 + c**2, "1": 1.0}[divisor]
    return torch.from_numpy((share.numpy() + x) / by)


def _within(C: ndarray, q: ndarray, b: ndarray, r: float) -> ndarray:
    """x with |G^T x| = r, or less where no d has more than mu = 0; rows of unit length.

    mu is in units of the shortest row. The quadratic with H = C + b b^T and m has the minimum of
    the one with C and mu = m - b . x, and always a minimum.
    """
    H = C + np.outer(b, b)
    x = nonnegative_qp(C, q[None])[0]  # mu = 0
    reached = _norm(C, x)
    low, high = float((q[b > 0] / b[b > 0]).min()), float(b @ x)  # x = 0; mu = 0
    if reached < r:
        y = nonnegative_qp(H, -b[None])[0]  # of least norm in the hull
        least = _norm(C, y) / (b @ y)
        if least**2 <= 4 * len(C) * EPS * (y.sum() / (b @ y)) ** 2:
            return x
        low, high = high, float(np.abs(q).max()) + 2 * r + r / least + high
    m = float(b @ x)
    for _ in range(STEPS):
        low, high = (m, high) if reached < r else (low, m)
        m = m + _piece(C, H, b, x, r)
        if not low < m < high:
            m = (low + high) / 2
        x = nonnegative_qp(H, np.minimum(q - m * b, 4 * r)[None])[0]  # above r: no part in d
        reached = _norm(C, x)
        if abs(reached - r) <= 1e-11 * r or high - low <= 1e-14 * max(abs(low), abs(high)):
            break
    return x


def _norm(C: ndarray, x: ndarray) -> float:
    return sqrt(max(0.0, float(x @ C @ x)))


def _piece(C: ndarray, H: ndarray, b: ndarray, x: ndarray, r: float) -> float:
    """By how much to raise m for |G^T x| = r, were the zeros of x to stay: a quadratic's root."""
    F = x > 0
    if not F.any():
        return nan
    a = np.zeros_like(x)
    a[F] = np.linalg.lstsq(H[np.ix_(F, F)], b[F], rcond=None)[0]
    A, B, rest = a @ C @ a, a @ C @ x, r * r - x @ C @ x
    bottom = float(B + np.sqrt(max(0.0, B * B + A * rest)))
    return float(rest) / bottom if bottom > 0 else nan


CHOICE = Choice(
    about="near the mean gradient, the best for the worst-off task (CAGrad: Liu et al. 2021)",
    make=on_gramian(cagrad),
    needs="gramian",
    invariants=frozenset({"permutation", "scale", "one task", "absent task"}),
)
