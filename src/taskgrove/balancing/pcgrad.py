"""PCGrad: project conflicting gradients.

Gradient Surgery for Multi-Task Learning, Yu, Kumar, Gupta, Levine, Hausman, Finn, NeurIPS 2020,
arXiv 2001.06782, algorithm 1.

Where another task's gradient points against a task's own, the part against it is removed. Each task
meets the others one after another, in a random order of its own.

    for each task i, for j in its order:
    if p_i . g_j < 0:  p_i <- p_i - (p_i . g_j / |g_j|^2) g_j,   p_i = g_i at first, g_j as it was;
    d = sum_i share_i p_i.

Each p_i stays a combination of the g_j, p_i = sum_j C_ij g_j, so the Gramian is all it takes:
p_i . g_j = (C M)_ij. The tasks are independent of each other, so all take a step at once.
Symbols: M = G G^T, C, CM [task task]; orders [task other]; share, w [task], w = C^T share.
share: the weights of the p_i; uniform in the paper. A zero row meets no one and weighs its share.
Orders come from (seed, step), so a resumed run repeats them. Two tasks: no conflict is left. More:
p_i may conflict again with a task that it met early.
Cost: 4 K^3 scalar work at most; one backward pass a task.
Use it when few pairs of tasks conflict and their losses have like scales.
Tuned sums do as well when gradients seldom conflict (d is then the mean), and on many published
benchmarks (Kurin et al. 2022, arXiv 2201.04122).
Differs from the paper: d is a mean, not a sum.
"""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from taskgrove.balancing.choice import Choice, Setup, Statistic


def pcgrad(
    M: Float64[Tensor, "task task"],
    share: Float64[Tensor, " task"],
    orders: Int64[Tensor, "task other"],
) -> Float64[Tensor, " task"]:
    """w of d = sum_j w_j g_j; `orders[i]` are the other tasks as task i meets them.

    >>> M = torch.tensor([[1.0, -1.0], [-1.0, 2.0]], dtype=torch.float64)
    >>> half = torch.tensor([0.5, 0.5], dtype=torch.float64)
    >>> pcgrad(M, half, torch.tensor([[1], [0]])).tolist()
    [1.0, 0.75]
    """
    gramian, tasks = M.numpy(), np.arange(len(M))
    squares = gramian.diagonal()
    C, CM = np.eye(len(gramian)), gramian.copy()
    for j in orders.numpy().T:
        dots = CM[tasks, j]
        i = np.flatnonzero((dots < 0) & (squares[j] > 0))
        if len(i):
            step = dots[i] / squares[j[i]]
            C[i, j[i]] -= step
            CM[i] -= step[:, None] * gramian[j[i]]
    return torch.from_numpy(share.numpy() @ C)


def random_orders(K: int, seed: int, step: int) -> Int64[Tensor, "task other"]:
    """For each of K tasks an order of the K - 1 others, uniform and independent."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
    keys = torch.rand(K, K, generator=generator, dtype=torch.float64).fill_diagonal_(2.0)
    return keys.argsort(dim=1)[:, :-1]


def make(setup: Setup) -> Callable[[Statistic], tuple[Tensor, None]]:
    """The weighting with the orders of its seed."""

    def weigh(statistic: Statistic) -> tuple[Tensor, None]:
        assert statistic.gramian is not None
        orders = random_orders(len(statistic.share), setup.seed, statistic.step)
        return pcgrad(statistic.gramian, statistic.share, orders), None

    return weigh


CHOICE = Choice(
    about="PCGrad: projects conflicting gradients (Yu et al. 2020)",
    make=make,
    needs="gramian",
    invariants=frozenset({"scale", "one task", "absent task"}),
)
