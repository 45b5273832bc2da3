"""FairGrad: alpha-fair shares of the progress.

Fair Resource Allocation in Multi-Task Learning, Ban, Ji, ICML 2024, arXiv 2402.15638.

A step is a resource: task i's loss falls by g_i . d, and d in a ball maximises the tasks'
alpha-fair utility of that. alpha = 0 is the plain sum, 1 is Nash-MTL, 2 minimises the potential
delay, and alpha to infinity equalises the progress of all tasks (max-min fairness).

    max_d  sum_i (g_i . d)^(1 - alpha) / (1 - alpha);   d = sum_i w_i g_i,   M w = w^(-1/alpha)
    (their equation 4);
    here  w_i (M w)_i = s_i,   s_i = p_i^(1/alpha) w_i^(1 - 1/alpha),   p = K share:
    the minimiser of the convex  1/2 w^T M w - sum_i s_i / (1 - 1/alpha).
    Newton, w <- w (1 + e):  (W M W + diag(s) / alpha) e = s - w (M w),  W = diag(w).

Symbols: G = rows g_i; M = G G^T [task task]; w, s, p, e, share [task]; alpha > 0. Solved on the
cosines C = M / (r r^T), r_i = |g_i|, with w = b / r; the answer divided by its sum.
share: weights of the utilities, as in weighted alpha-fairness; uniform in the paper.
Where C is singular or no w solves it, as in nash.py: small eigenvalues are raised. A task with
zero gradient weighs its share and leaves the others' direction alone. With alpha far from 1 and
norms far apart some weights are far below the rounding error of others: alpha in [1, 2] is solved
with norms spread over 12 decades, alpha = 4 over 4, alpha = 10 over 2; beyond, w is the iterate
after 100 steps.

Cost: about K^3 scalar work in each of 3 to 20 Newton steps (at most 100); one backward pass a task.
Use it when one wants a dial between efficiency (alpha small) and equal progress (alpha large).
Tuned sums do as well when the tasks hardly conflict: with orthogonal gradients the weights are
r^(-2 alpha / (1 + alpha)), a fixed power of the gradient norms.
Differs from the paper: own Newton method in place of a bounded least-squares solver; unequal
weights; w sums to 1. alpha = 2 by default, as in the authors' run scripts for CelebA and QM9.
"""

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from taskgrove.balancing.choice import Choice, on_gramian
from taskgrove.balancing.nash import lift

Vector = Float64[np.ndarray, " task"]
Matrix = Float64[np.ndarray, "task task"]
STEPS = 100


def fairgrad(
    M: Float64[Tensor, "task task"], share: Float64[Tensor, " task"], alpha: float = 2.0
) -> Float64[Tensor, " task"]:
    """The solution divided by its sum; tasks with zero gradient keep their share.

    >>> M = torch.tensor([[1.0, 0.0], [0.0, 64.0]], dtype=torch.float64)  # orthogonal: r^(-4/3)
    >>> w = fairgrad(M, torch.tensor([0.5, 0.5], dtype=torch.float64))
    >>> round(float(w[0] / w[1]), 9)
    16.0
    """
    if not alpha > 0:
        raise ValueError(f"alpha is {alpha}; it must be above 0 (1: Nash-MTL, large: max-min)")
    gramian, w = M.numpy(), share.numpy().copy()
    moves = gramian.diagonal() > 0
    if moves.any():
        relative = gramian[np.ix_(moves, moves)] / gramian.max()
        fair = allocate(relative, len(w) * w[moves], alpha)
        w[moves] = w[moves].sum() * (fair / fair.sum())
    return torch.from_numpy(w)


def allocate(M: Matrix, p: Vector, alpha: float) -> Vector:
    """w > 0 with M w = (p / w)^(1/alpha); the diagonal of M and p are positive."""
    r = np.sqrt(M.diagonal())
    C = lift(M / r[:, None] / r)
    q = p ** (1 / alpha) * r ** (1 / alpha - 1)  # C b = q b^(-1/alpha)
    b = _on_ray(q ** (alpha / (1 + alpha)), C, q, alpha)
    residual = np.inf
    for _ in range(STEPS):
        Cb, s = C @ b, q * b ** (1 - 1 / alpha)
        gap = s - b * Cb
        before, residual = residual, float(np.abs(gap / s).max())
        if residual < 1e-13 or (before < 1e-4 and residual > before / 2):
            break
        e = np.linalg.solve(b[:, None] * C * b + np.diag(s / alpha), gap)
        if np.abs(e).max() < 0.1 * min(1.0, alpha):
            b = b * (1 + e)
        else:
            b = _on_ray(_search(C, b, e, float(e @ gap), q, alpha), C, q, alpha)
    return b / r


def _on_ray(b: Vector, C: Matrix, q: Vector, alpha: float) -> Vector:
    """The best multiple of b: sum_i b_i (C b)_i = sum_i s_i."""
    power = 1 / alpha
    return b * ((q @ b ** (1 - power)) / (b @ C @ b)) ** (1 / (1 + power))


def _search(C: Matrix, b: Vector, e: Vector, slope: float, q: Vector, alpha: float) -> Vector:
    """b (1 + t e), or b / (1 - t e) where e < 0, whichever lowers the objective more."""
    power = 1 - 1 / alpha
    s, Cb = q * b**power, C @ b

    def rise(step: Vector) -> float:
        """The objective at b (1 + step) less that at b."""
        move, log = b * step, np.log1p(step)
        grown = log if power == 0 else np.expm1(power * log) / power
        return float(move @ Cb + 0.5 * move @ C @ move - s @ grown)

    t = 1.0
    step = np.zeros_like(b)
    for _ in range(10):
        straight = e * min(t, 0.95 / max(float(-e.min()), 0.95))
        curved = np.maximum(t * e / (1 - np.minimum(t * e, 0)), -1 + 1e-9)
        lower, step = min((rise(straight), 0, straight), (rise(curved), 1, curved))[::2]
        if lower <= -0.1 * t * slope + 1e-13 * s.sum():
            break
        t /= 2
    return b * (1 + step)


CHOICE = Choice(
    about="alpha-fair shares of each step's progress, alpha = 2 (Ban and Ji 2024)",
    make=on_gramian(fairgrad),
    needs="gramian",
    invariants=frozenset(
        {"permutation", "scale", "non-conflict", "stationarity", "one task", "absent task"}
    ),
)
