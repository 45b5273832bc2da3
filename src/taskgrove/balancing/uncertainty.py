"""Uncertainty weighting.

Multi-Task Learning Using Uncertainty to Weigh Losses for Scene Geometry and Semantics,
Kendall, Gal, Cipolla, CVPR 2018, arXiv 1705.07115.
Each task's observation noise sigma_t is learned; a task with much noise weighs less:

    total = sum_t share_t (f_t exp(-s_t) L_t + s_t / 2),   s_t = log sigma_t^2,
    f_t = 1 for classes and labels (their equation 10), 1/2 for numbers (their equation 7).

Symbols: s [all tasks] (parameter, starts at 0); share, L [task] over the present tasks. Differs
from the paper: each label counts once (share_t, 1/K where tasks are equally present), so the scale
of the gradient does not grow with the number of tasks.
"""

import torch
from torch import Tensor, nn

from taskgrove.balancing.weighting import Statistic


class Uncertainty(nn.Module):
    """w = share f exp(-s), with s learned; `numbers` marks the tasks whose target is a number."""

    factor: Tensor

    def __init__(self, numbers: list[bool]) -> None:
        super().__init__()
        self.log_variance = nn.Parameter(torch.zeros(len(numbers)))
        factor = torch.where(torch.tensor(numbers), 0.5, 1.0)
        self.register_buffer("factor", factor, persistent=False)

    def forward(self, statistic: Statistic) -> tuple[Tensor, Tensor]:
        """w [task] and the penalty sum_t share_t s_t / 2."""
        s = self.log_variance[statistic.tasks]  # [task]
        weights = statistic.share * self.factor[statistic.tasks] * torch.exp(-s)
        return weights, (statistic.share * s / 2).sum()
