"""IMTL-L: scale every loss to the same size.

Towards Impartial Multi-task Learning, Liu, Li, Kuang, Xue, Chen, Yang, Liao, Zhang, ICLR 2021,
https://openreview.net/forum?id=IMPnRXEWpvr, section 3.3 (loss balance).

No task should prevail because its loss is large. A scale for each loss is learned, without any
assumption on the task's kind, and settles where every scaled loss is 1.

    minimise  sum_t share_t (exp(s_t) L_t - s_t)  over s too
    w_t = share_t exp(s_t)

Symbols: s [all tasks], parameters, 0 at first; share, L, w [task] over the present tasks. The base
of the power is e, as in the paper. Where s has settled, exp(s_t) = 1 / L_t: twice the weights of
uncertainty weighting. An absent task's s has no gradient. A loss that is not above 0 has no such
minimum (s would rise for ever): its task's s gets a gradient of 0. A loss that goes to 0 drives its
weight up without bound.
Cost: one number a task; one backward pass.
Use it when losses come in different units and none of them ends near 0.
Tuned sums do as well when the scales of the losses are known, or hardly change in training.
Differs from the paper: tasks weigh by their share, so the step does not grow with their number; its
gradient balance (IMTL-G) is a method of its own here.
"""

import torch
from jaxtyping import Float64
from torch import Tensor, nn

from taskgrove.balancing.choice import Choice, Statistic


class IMTLL(nn.Module):
    """The weighting.

    One scalar parameter a task, so that an optimiser leaves alone the s of an absent task.
    """

    def __init__(self, tasks: int) -> None:
        super().__init__()
        self.s = nn.ParameterList(torch.zeros(()) for _ in range(tasks))

    def forward(self, statistic: Statistic) -> tuple[Float64[Tensor, " task"], Tensor]:
        """w and the objective."""
        s = torch.stack([self.s[task] for task in statistic.tasks.tolist()]).cpu().double()
        share, L = statistic.share, statistic.losses
        terms = torch.exp(s) * L - s  # [task]
        objective = (share * torch.where(L > 0, terms, 0.0)).sum()
        return share * torch.exp(s.detach()), objective


CHOICE = Choice(
    about="IMTL-L: a learned scale makes every loss the same size (Liu et al. 2021)",
    make=lambda setup: IMTLL(setup.tasks),
    needs="losses",
    invariants=frozenset({"permutation", "absent task"}),
)
