"""IMTL-G: equal projections on all gradients.

Towards Impartial Multi-task Learning, Liu, Li, Kuang, Xue, Chen, Yang, Liao, Zhang, ICLR 2021
(openreview IMPnRXEWpvr).

The shared gradient is to favour no task: its projections on the tasks' unit gradients are equal.
Among the combinations whose weights sum to 1 that settles the weights in closed form.

    d = sum_i a_i g_i,  sum_i a_i = 1,  d . u_i = d . u_1 for each i,  u_i = g_i / |g_i|:
    a_(2..K) = g_1 U^T (D U^T)^-1,   rows of U: u_1 - u_i, of D: g_1 - g_i;   a_1 = 1 - sum
    the same, symmetric in the tasks:  z_i = a_i |g_i|,  C z = c 1,  sum_i z_i / |g_i| = 1

Symbols: M = G G^T [task task]; C = u u^T cosines [task task]; z, a, share [task]; c scalar, the
common projection; w = a. share: ignored; the paper knows no preference.
Weights may be negative, and c too: then d lowers no loss but raises all. That happens when unit
gradients of very different length conflict; the paper's constraint on the sum brings it about.
Solved by least squares, singular values below (K + 1) eps of the largest left out (eps = 2^-23);
divided by the sum. A task with zero gradient weighs its share and leaves the others' direction
alone.
Cost: one singular value decomposition of size K + 1; one backward pass a task.
Use it when tasks differ in gradient size and rarely conflict.
Tuned sums do as well when gradients are nearly orthogonal: then a is 1 / |g| divided by its sum.
Differs from the paper: the symmetric system, which stays solvable for opposed gradients.
"""

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from taskgrove.balancing.choice import Choice, on_gramian

EPS = 2.0**-23


def imtl_g(
    M: Float64[Tensor, "task task"], share: Float64[Tensor, " task"]
) -> Float64[Tensor, " task"]:
    """w = a; it sums to 1, as share does.

    >>> M = torch.tensor([[1.0, 0.0], [0.0, 4.0]], dtype=torch.float64)
    >>> [round(a, 12) for a in imtl_g(M, torch.tensor([0.5, 0.5], dtype=torch.float64)).tolist()]
    [0.666666666667, 0.333333333333]
    """
    gramian, w = M.numpy(), share.numpy().copy()
    moves = gramian.diagonal() > 0
    K = int(moves.sum())
    if len(w) == 1 or K == 0:
        return torch.from_numpy(w)
    r = np.sqrt(gramian.diagonal()[moves])
    inverse = r.min() / r  # 1 / |g| up to scale, at most 1
    system = np.zeros((K + 1, K + 1))
    system[:K, :K] = gramian[np.ix_(moves, moves)] / r[:, None] / r
    system[:K, K] = -1
    system[K, :K] = inverse
    solution = np.linalg.lstsq(system, np.eye(K + 1)[K], rcond=(K + 1) * EPS)[0]
    a = solution[:K] * inverse
    if a.sum() > EPS * np.abs(a).sum():
        w[moves] = w[moves].sum() * (a / a.sum())
    return torch.from_numpy(w)


CHOICE = Choice(
    about="IMTL-G: equal projections on all gradients (Liu et al. 2021)",
    make=on_gramian(imtl_g),
    needs="gramian",
    invariants=frozenset({"permutation", "scale", "one task", "absent task"}),
)
