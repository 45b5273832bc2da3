"""ConFIG: the direction at equal angles to all gradients.

ConFIG: Towards Conflict-free Training of Physics Informed Neural Networks, Liu, Chu, Thuerey,
ICLR 2025, arXiv 2408.11104.

Only one direction in the span of independent gradients has the same cosine, above 0, with each of
them. Its length is the sum of the gradients' projections on it, so that it shrinks where tasks
conflict.

    g_u = U(u^+ what)   with rows u_i = g_i / |g_i|: u g_u is proportional to what (1 in the paper)
    d = (mean_i g_i . g_u) g_u
    from M alone:  u^+ = u^T C^+,  C = u u^T;  z = C^+ what;  |u^T z|^2 = z^T C z;
    w_i = (z_i / |g_i|) (sum_j share_j |g_j| (C z)_j) / (z^T C z)

Symbols: M = G G^T [task task]; C cosines [task task], ^+ the pseudo-inverse, without eigenvalues
below K eps of the largest, eps = 2^-23; U(x) = x / |x|; z, w, share [task]; what = K share.
share: the paper's direction weights (the cosines' proportions), and the weights of the mean.
Independent gradients: no conflict. Dependent ones: least squares, cosines need not be equal. If the
share-weighted unit gradients sum to 0, d = 0 by w_i = share_i sum_j share_j |g_j| / |g_i|. A zero
row has no direction; it weighs its share, and counts as 0 in the mean.
Cost: one eigendecomposition, about 10 K^3; one backward pass a task.
Use it when every loss must fall at every step and K is far below the number of parameters.
Tuned sums do as well when gradients are nearly orthogonal: dividing each loss by its usual gradient
norm is then the same.
Differs from the paper: the mean of the projections, by share, in place of their sum.
"""

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from taskgrove.balancing.choice import Choice, on_gramian

EPS = 2.0**-23


def con_fig(
    M: Float64[Tensor, "task task"], share: Float64[Tensor, " task"]
) -> Float64[Tensor, " task"]:
    """w of d at angles whose cosines have the proportions of share.

    >>> M = torch.tensor([[1.0, 0.0], [0.0, 4.0]], dtype=torch.float64)
    >>> con_fig(M, torch.tensor([0.5, 0.5], dtype=torch.float64)).tolist()
    [0.75, 0.375]
    """
    gramian, w = M.numpy(), share.numpy().copy()
    moves = gramian.diagonal() > 0
    if len(w) == 1 or not moves.any():
        return torch.from_numpy(w)
    r = np.sqrt(gramian.diagonal()[moves])
    C = gramian[np.ix_(moves, moves)] / r[:, None] / r
    weight = w[moves]
    values, V = np.linalg.eigh(C)
    kept = values > len(values) * EPS * values[-1]
    values, V = values[kept], V[:, kept]
    x = V.T @ weight
    squared = x @ (x / values)  # z^T C z for what = share: z only matters up to scale
    if squared > EPS * (weight @ weight):
        z, Cz = V @ (x / values), V @ x
        w[moves] = z / r * ((weight * r) @ Cz / squared)
    else:
        w[moves] = weight / r * (weight @ r)
    return torch.from_numpy(w)


CHOICE = Choice(
    about="ConFIG: equal angles to all gradients (Liu, Chu and Thuerey 2024)",
    make=on_gramian(con_fig),
    needs="gramian",
    invariants=frozenset({"permutation", "scale", "one task", "absent task"}),
)
