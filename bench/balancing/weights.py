"""Weights alone: Nash-MTL with K = 20 and UPGrad with K = 100, from rows drawn from a seed.

A Nash solution fulfils a_i (M a)_i = 1 for each task i, M = G G^T. Libraries scale a as they like,
so the residual is max |a_i (M a)_i - 1| at the scale where the K terms have mean 1, as they do at
the solution; it is computed in float64.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

Weigh = Callable[[Tensor], Tensor]
SPREADS = {"alike": 0, "1e-2..1e2": 2, "1e-6..1e6": 6}


def rows(K: int, dim: int, decades: float, draws: int) -> Iterator[Tensor]:
    """Matrices G [task dim] of float64; norms of the rows from 10^-decades to 10^decades."""
    generator = torch.Generator().manual_seed(0)
    scale = torch.logspace(-decades, decades, K, dtype=torch.float64)[:, None]
    for _ in range(draws):
        G = torch.randn(K, dim, generator=generator, dtype=torch.float64)
        yield scale * G / G.norm(dim=1, keepdim=True)


def nash_rows(spread: str, draws: int) -> list[Tensor]:
    return list(rows(20, 100, SPREADS[spread], draws))


def upgrad_rows(draws: int) -> list[Tensor]:
    """Rows of one scale; about half of all pairs conflict."""
    return list(rows(100, 400, 0, draws))


def residual(G: Tensor, a: Tensor) -> float:
    """max |a_i (M a)_i - 1| after the kindest common factor."""
    a = a.double()
    terms = a * (G @ (G.T @ a))
    return float((terms / terms.mean() - 1).abs().max())


def worst_residual(weigh: Weigh, matrices: list[Tensor]) -> float:
    return max(residual(G, weigh(G)) for G in matrices)
