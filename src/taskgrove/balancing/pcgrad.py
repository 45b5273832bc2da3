"""PCGrad: project conflicting gradients.

Gradient Surgery for Multi-Task Learning, Yu, Kumar, Gupta, Levine, Hausman, Finn, NeurIPS 2020,
arXiv 2001.06782, algorithm 1. For each task i, in a random order of the other tasks j:

    if p_i . g_j < 0:  p_i <- p_i - (p_i . g_j / |g_j|^2) g_j,   p_i = g_i at first, g_j as it was;
    d = sum_i p_i.

Each p_i stays a combination of the g_j, p_i = sum_j C_ij g_j, so the Gramian M = G G^T is all it
takes: p_i . g_j = (C M)_ij. Symbols: M [task task] float64, C [task task], w [task] = column sums
of C. Differs from the paper: rows carry their share of the batch's labels, so d is a mean, not a
sum.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from taskgrove.balancing.weighting import Statistic


def pcgrad(
    gramian: Float[Tensor, "task task"], generator: torch.Generator
) -> Float[Tensor, " task"]:
    """w of d = sum_j w_j g_j; K^2 log K scalar work besides K^3 for the products."""
    M = gramian.cpu()
    K = len(M)
    C = torch.eye(K, dtype=M.dtype)
    for i in range(K):
        for j in torch.randperm(K, generator=generator).tolist():
            if j == i:
                continue
            dot = C[i] @ M[:, j]
            if dot < 0:  # then |g_j| > 0
                C[i, j] -= dot / M[j, j]
    return C.sum(0)


class PCGrad:
    """The weighting: the order of step s comes from (seed, s), so a resumed run repeats it."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def __call__(self, statistic: Statistic) -> tuple[Tensor, None]:
        """w = share x column sums of C."""
        assert statistic.gramian is not None
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + statistic.step)
        coefficients = pcgrad(statistic.gramian, generator).to(statistic.share)
        return statistic.share * coefficients, None
