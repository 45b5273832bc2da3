"""Uncertainty weighting: a task with much noise weighs less.

Multi-Task Learning Using Uncertainty to Weigh Losses for Scene Geometry and Semantics, Kendall,
Gal, Cipolla, CVPR 2018, arXiv 1705.07115.

Each task's observation noise sigma_t is learned along with the model, by maximum likelihood. A loss
is divided by its noise, and log sigma_t keeps the noise from growing without end.

    minimise  sum_t share_t (f_t exp(-s_t) L_t + s_t / 2)  over s too,   s_t = log sigma_t^2
    f_t = 1 for classes and labels (their equation 10), 1/2 for numbers (their equation 7)
    w_t = share_t f_t exp(-s_t)

Symbols: s [all tasks], parameters, 0 at first; share, L, w [task] over the present tasks. Where s
has settled, exp(s_t) = 2 f_t L_t, so w_t = share_t / (2 L_t): every loss pulls as its logarithm
does. An absent task's s has no gradient. A loss that is not above 0 has no such minimum (s would
fall for ever): its task's s gets a gradient of 0.
Cost: one number a task; one backward pass.
Use it when losses come in different units and a study over weights costs too much.
Tuned sums do as well when the scales of the losses are known, or hardly change in training.
Differs from the paper: tasks weigh by their share, so the step does not grow with their number.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float64
from torch import Tensor, nn

from taskgrove.balancing.choice import Choice, Statistic


class Uncertainty(nn.Module):
    """The weighting; `numbers` marks the tasks whose target is a number.

    One scalar parameter a task, so that an optimiser leaves alone the s of an absent task.
    """

    def __init__(self, numbers: Sequence[bool]) -> None:
        super().__init__()
        self.f = torch.tensor([0.5 if number else 1.0 for number in numbers], dtype=torch.float64)
        self.s = nn.ParameterList(torch.zeros(()) for _ in numbers)

    def forward(self, statistic: Statistic) -> tuple[Float64[Tensor, " task"], Tensor]:
        """w and the objective."""
        s = torch.stack([self.s[task] for task in statistic.tasks.tolist()]).cpu().double()
        share, L, f = statistic.share, statistic.losses, self.f[statistic.tasks]
        terms = f * torch.exp(-s) * L + s / 2  # [task]
        objective = (share * torch.where(L > 0, terms, 0.0)).sum()
        return share * f * torch.exp(-s.detach()), objective


CHOICE = Choice(
    about="uncertainty: losses divided by a learned noise (Kendall et al. 2018)",
    make=lambda setup: Uncertainty(setup.numbers or [False] * setup.tasks),
    needs="losses",
    invariants=frozenset({"permutation", "absent task"}),
)
