"""GradVac: gradients are turned towards the usual angle of their tasks.

Gradient Vaccine: Investigating and Improving Multi-task Optimization in Massively Multilingual
Models, Wang, Tsvetkov, Firat, Cao, ICLR 2021, arXiv 2010.05874.

PCGrad acts only on cosines below 0; tasks that are alike should agree by more than that. Each pair
of tasks has a target, the moving average of its cosines, and a cosine below it is raised to it.

    for each task i, for j in a random order, p_i = g_i at first, g_j as it was:
    phi = cos(p_i, g_j);   if phi < phihat_ij:
        p_i <- p_i + g_j |p_i| (phihat sqrt(1 - phi^2) - phi sqrt(1 - phihat^2))
                         / (|g_j| sqrt(1 - phihat^2))
    phihat_ij <- (1 - beta) phihat_ij + beta phi,  p_i changed or not;  phihat = 0 at first
    d = sum_i share_i p_i

Symbols: p_i = sum_j C_ij g_j with C [task task], so M = G G^T is all it takes; phihat [all tasks,
all tasks], a buffer by task number; orders [task other] from (seed, step); share, w [task];
beta = 0.01.
share: the weights of the p_i; uniform in the paper. Pairs with an absent task or a zero row keep
their phihat. At phihat = 0 it is PCGrad. phihat counts as at most sqrt(1 - 1e-6): above, a change
of angle would lengthen p_i more than a thousandfold; share if numbers overflow all the same.
Cost: 6 K^3 scalar work at most; K^2 numbers of state; one backward pass a task.
Use it when there are many tasks, alike in groups, such as languages.
Tuned sums do as well when tasks are few or unrelated: phihat stays near 0, and it is PCGrad.
Differs from the paper: a mean, not a sum; the whole of the shared parameters as one group.
"""

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor, nn

from taskgrove.balancing.choice import Choice, Setup, Statistic
from taskgrove.balancing.pcgrad import random_orders

HIGHEST = np.sqrt(1 - 1e-6)
Square = Float64[Tensor, "task task"]


def gradvac(
    M: Square,
    share: Float64[Tensor, " task"],
    orders: Int64[Tensor, "task other"],
    phihat: Square,
    beta: float = 0.01,
) -> tuple[Float64[Tensor, " task"], Square]:
    """w of d = sum_j w_j g_j, and the next phihat.

    >>> M = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    >>> half, phihat = torch.full((2,), 0.5, dtype=torch.float64), torch.full_like(M, 0.6)
    >>> w, _ = gradvac(M, half, torch.tensor([[1], [0]]), phihat)  # p_1 = g_1 + (0.6 / 0.8) g_2
    >>> [round(x, 12) for x in w.tolist()]
    [0.875, 0.875]
    """
    gramian, target = M.numpy(), phihat.numpy().copy()
    r = np.sqrt(np.maximum(gramian.diagonal(), 0))
    C, CM = np.eye(len(gramian)), gramian.copy()
    for j in orders.numpy().T:
        squared = np.maximum(np.einsum("ij,ij->i", CM, C), 0)  # |p_i|^2
        seen = squared > 1e-14 * (np.abs(C) @ r) ** 2  # else p_i has cancelled to rounding error
        i = np.flatnonzero(seen & (r[j] > 0))
        j, p = j[i], np.sqrt(squared[i])
        phi = np.clip(CM[i, j] / p / r[j], -1, 1)
        goal = np.minimum(target[i, j], HIGHEST)
        other = np.sqrt(1 - goal**2)
        step = np.where(
            phi < goal, p * (goal * np.sqrt(1 - phi**2) - phi * other) / r[j] / other, 0
        )
        C[i, j] += step
        CM[i] += step[:, None] * gramian[j]
        target[i, j] += beta * (phi - target[i, j])
    w = torch.from_numpy(share.numpy() @ C)
    return w if w.isfinite().all() else share.clone(), torch.from_numpy(target)


class GradVac(nn.Module):
    """The weighting; phihat is its state."""

    phihat: Tensor

    def __init__(self, tasks: int, seed: int, beta: float = 0.01) -> None:
        super().__init__()
        self.seed, self.beta = seed, beta
        self.register_buffer("phihat", torch.zeros(tasks, tasks, dtype=torch.float64))

    @torch.no_grad()
    def forward(self, statistic: Statistic) -> tuple[Float64[Tensor, " task"], None]:
        """w; phihat of the present tasks moves."""
        assert statistic.gramian is not None
        here = statistic.tasks.to(self.phihat.device)
        pairs = here[:, None], here[None, :]
        orders = random_orders(len(here), self.seed, statistic.step)
        phihat = self.phihat[pairs].cpu().double()
        w, phihat = gradvac(statistic.gramian, statistic.share, orders, phihat, self.beta)
        self.phihat[pairs] = phihat.to(self.phihat)
        return w, None


def make(setup: Setup) -> GradVac:
    """The weighting of all tasks, present or not."""
    return GradVac(setup.tasks, setup.seed)


CHOICE = Choice(
    about="GradVac: gradients turned to the tasks' usual angle (Wang et al. 2021)",
    make=make,
    needs="gramian",
    invariants=frozenset({"scale", "one task", "absent task"}),
)
