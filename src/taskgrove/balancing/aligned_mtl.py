"""Aligned-MTL: the principal directions of the gradients get one length.

Independent Component Alignment for Multi-Task Learning, Senushkin, Patakin, Kuznetsov, Konushin,
CVPR 2023, arXiv 2305.19000.

Conflict and dominance of gradients show in the condition number of their matrix. It is replaced by
the nearest matrix with equal singular values, the smallest one of G, and the tasks' weights are
applied to that.

    M = V diag(l) V^T,  of rank R;   B = sqrt(l_R) V diag(1 / sqrt(l_1), ..., 1 / sqrt(l_R)) V^T
    w = B share,   d = sum_i w_i g_i   (G^T B are the aligned gradients: condition number 1)

Symbols: G = rows g_i; M = G G^T, B [task task]; l its R eigenvalues above K eps l_1, eps = 2^-23
(the authors' tolerance), l_R the smallest of them; V [task R]; share, w [task].
share: the paper's vector of task weights.
The rank jumps where an eigenvalue crosses the tolerance, and then w does. Where the weighted rows
cancel in every kept direction (two opposed rows) w is 0; a zero row weighs 0.
Cost: one eigendecomposition, about 10 K^3; one backward pass a task.
Use it when gradients differ much in size or conflict, and the tasks' weights are meant as such.
Tuned sums do as well when M is well conditioned: then B is nearly a multiple of the identity.
Differs from the paper: share sums to 1, so d is a mean, not a sum.
"""

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from taskgrove.balancing.choice import Choice, on_gramian

EPS = 2.0**-23


def aligned_mtl(
    M: Float64[Tensor, "task task"], share: Float64[Tensor, " task"]
) -> Float64[Tensor, " task"]:
    """w = B share; share where M is 0.

    >>> M = torch.tensor([[1.0, 0.0], [0.0, 4.0]], dtype=torch.float64)
    >>> aligned_mtl(M, torch.tensor([0.5, 0.5], dtype=torch.float64)).tolist()
    [0.5, 0.25]
    """
    gramian = M.numpy()
    largest = gramian.diagonal().max()
    if len(share) == 1 or largest <= 0:
        return share.clone()
    values, V = np.linalg.eigh(gramian / largest)
    kept = values > len(values) * EPS * values[-1]
    values, V = values[kept], V[:, kept]
    B = V * np.sqrt(values[0] / values) @ V.T
    return torch.from_numpy(B @ share.numpy())


CHOICE = Choice(
    about="Aligned-MTL: equal singular values of the gradient matrix (Senushkin et al. 2023)",
    make=on_gramian(aligned_mtl),
    needs="gramian",
    invariants=frozenset({"permutation", "scale", "one task", "absent task"}),
)
