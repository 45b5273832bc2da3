"""Nash-MTL: the tasks bargain over the direction.

Multi-Task Learning as a Bargaining Game, Navon, Shamsian, Achituve, Maron, Kawaguchi, Chechik,
Fetaya, ICML 2022, arXiv 2202.01017.

Each task's utility of a direction d is g_i . d, and the tasks agree on the d in a ball that
maximises the product of their utilities. No task can be bought by another's large gradient: the
direction is the same whatever the scale of each loss.

    d = sum_i a_i g_i,   M a = 1 / a   (their claim 3.1), element by element;
    here  a_i (M a)_i = p_i,  p = K share:  the minimiser of  1/2 a^T M a - sum_i p_i log a_i.
    Newton in relative steps, a <- a (1 + e):  (A M A + diag p) e = p - a (M a),  A = diag(a);
    a full step leaves exactly the residual p e^2.

Symbols: G = rows g_i; M = G G^T [task task]; a, p, e, share, w [task]; w = a / sum(a). Solved on
the cosines C = M / (r r^T), r_i = |g_i|, with a = b / r.
share: the bargaining powers of the asymmetric Nash solution (d maximises prod (g_i . d)^share_i).
Where no a solves it (a positive b with C b = 0: no direction improves all tasks), or C is singular,
eigenvalues of C below 1e-12 K are raised to that; w is then such a b, and d about 0. A task with
zero gradient weighs its share and leaves the others' direction alone. w sums to 1, so a task whose
gradient is far smaller than the rest takes most of the weight, and |d| is of its size.

Cost: about K^3 scalar work in each of 2 to 12 Newton steps (at most 60); one backward pass a task.
Use it when losses have unlike or drifting scales and no task may be left behind.
Tuned sums do as well when the scales are known and steady, so that dividing each loss by its usual
gradient norm does most of the work.
Differs from the paper: Newton's method on the equivalent convex problem, to rounding error, in
place of a sequence of 20 linearised programs; unequal powers; w sums to 1, and the norm is not
clipped here.
"""

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from taskgrove.balancing.choice import Choice, on_gramian

Vector = Float64[np.ndarray, " task"]
Matrix = Float64[np.ndarray, "task task"]
LOW = 1e-12  # times K = trace(C): eigenvalues of the cosines that count as zero
STEPS = 60


def nash(
    M: Float64[Tensor, "task task"], share: Float64[Tensor, " task"]
) -> Float64[Tensor, " task"]:
    """w = a / sum(a); tasks with zero gradient keep their share.

    >>> M = torch.tensor([[1.0, 0.0], [0.0, 9.0]], dtype=torch.float64)  # orthogonal: a = 1 / r
    >>> nash(M, torch.tensor([0.5, 0.5], dtype=torch.float64)).tolist()
    [0.75, 0.25]
    """
    gramian, w = M.numpy(), share.numpy().copy()
    moves = gramian.diagonal() > 0
    if moves.all():
        a = bargain(gramian, len(w) * w)
        return torch.from_numpy(a / a.sum())
    if moves.any():
        a = bargain(gramian[np.ix_(moves, moves)], len(w) * w[moves])
        w[moves] = w[moves].sum() * (a / a.sum())
    return torch.from_numpy(w)


def bargain(M: Matrix, p: Vector) -> Vector:
    """a > 0 with a (M a) = p; the diagonal of M and p are positive."""
    r = np.sqrt(M.diagonal())
    C = lift(M / r[:, None] / r)
    b, Cb = _on_ray(np.sqrt(p), C @ np.sqrt(p), p)
    residual = np.inf
    for _ in range(STEPS):
        gap = p - b * Cb
        before, residual = residual, float(np.abs(gap / p).max())
        if residual < 1e-13 or (before < 1e-4 and residual > before / 2):
            break
        e = np.linalg.solve(b[:, None] * C * b + np.diag(p), gap)
        if e @ gap < 0.06 * p.min():  # then |e| < 1/4 and full steps converge quadratically
            b = b * (1 + e)
            Cb = C @ b
        else:
            b, Cb = _search(C, b, Cb, e, float(e @ gap), p)
    return b / r


def lift(C: Matrix) -> Matrix:
    """C with eigenvalues of at least LOW K: C itself where it has them."""
    low = LOW * len(C)
    try:
        np.linalg.cholesky(C - low * np.eye(len(C)))
    except np.linalg.LinAlgError:
        values, V = np.linalg.eigh(C)
        return (V * np.maximum(values, low)) @ V.T
    return C


def _on_ray(b: Vector, Cb: Vector, p: Vector) -> tuple[Vector, Vector]:
    """The best multiple of b: sum_i b_i (C b)_i = sum_i p_i."""
    s = np.sqrt(p.sum() / (b @ Cb))
    return b * s, Cb * s


def _search(
    C: Matrix, b: Vector, Cb: Vector, e: Vector, slope: float, p: Vector
) -> tuple[Vector, Vector]:
    """b (1 + t e) with t <= 1 so that b stays positive and the objective falls."""
    t = min(1.0, 0.95 / max(float(-e.min()), 0.95))
    start = 0.5 * (b @ Cb) - p @ np.log(b) + 1e-13 * p.sum()
    new, Cnew = b, Cb
    for _ in range(10):
        new = b * (1 + t * e)
        Cnew = C @ new
        if 0.5 * (new @ Cnew) - p @ np.log(new) <= start - 0.1 * t * slope:
            break
        t /= 2
    return _on_ray(new, Cnew, p)


CHOICE = Choice(
    about="the Nash bargaining solution between the tasks (Navon et al. 2022)",
    make=on_gramian(nash),
    needs="gramian",
    invariants=frozenset(
        {
            "permutation",
            "scale",
            "row scale",
            "non-conflict",
            "stationarity",
            "one task",
            "absent task",
        }
    ),
)
