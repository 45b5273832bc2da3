"""DWA: a task whose loss falls slowly weighs more.

End-to-End Multi-Task Learning with Attention, Liu, Johns, Davison, CVPR 2019, arXiv 1803.10704,
section 3.2 (dynamic weight average).

The rate at which each loss falls is read off two means of it, one window apart. Only losses are
needed, and a loss's unit cancels.

    r_t = mean of L_t over the last whole window / mean over the window before it
    w_t = share_t exp(r_t / T) / sum_j share_j exp(r_j / T)        over the present tasks j

Symbols: r [all tasks], 1 until two windows are whole; share, L, w [task]; T = 2 the temperature. A
window is `window` steps in which the task is present, so an absent task keeps its r and its sums,
and a rare task's means are no noisier. Where the older mean is not above 0, r = 1; r is cut to
[0, 1000], where the softmax holds one task alone.
Cost: four numbers a task; one backward pass.
Use it when tasks learn at different speeds and those stay alike for hundreds of steps.
Tuned sums do as well in most runs: r is close to 1 once training slows down, and w to share.
Differs from the paper: windows of 100 steps, not epochs (an epoch of several tasks is not one
thing; set `window` to the steps of an epoch to have the paper's); w sums to 1, not to K; log share
is added, which is nothing where shares are equal.
"""

import torch
from jaxtyping import Float64
from torch import Tensor, nn

from taskgrove.balancing.choice import Choice, Statistic

MOST = 1000.0  # no unit: a ratio


def dwa(
    r: Float64[Tensor, " task"], share: Float64[Tensor, " task"], temperature: float = 2.0
) -> Float64[Tensor, " task"]:
    """w of the ratios r."""
    return torch.softmax(r / temperature + share.log(), 0)


class DWA(nn.Module):
    """The weighting; `window` in steps."""

    r: Tensor
    before: Tensor  # mean of the last whole window; 0: none yet
    total: Tensor  # of the window under way
    count: Tensor

    def __init__(self, tasks: int, window: int = 100, temperature: float = 2.0) -> None:
        super().__init__()
        self.window, self.temperature = window, temperature
        self.register_buffer("r", torch.ones(tasks))
        self.register_buffer("before", torch.zeros(tasks))
        self.register_buffer("total", torch.zeros(tasks))
        self.register_buffer("count", torch.zeros(tasks))

    @torch.no_grad()
    def forward(self, statistic: Statistic) -> tuple[Float64[Tensor, " task"], None]:
        """w from whole windows; then this step's losses join the window under way."""
        buffers = (self.r, self.before, self.total, self.count)
        here = statistic.tasks.to(self.r.device)
        r, before, total, count = (buffer[here].cpu().double() for buffer in buffers)  # [task] each
        w = dwa(r, statistic.share, self.temperature)
        total, count = total + statistic.losses, count + 1
        whole, mean = count >= self.window, total / count
        ratio = torch.where(before > 0, mean / before, 1.0).clamp(0, MOST)
        r, before = torch.where(whole, ratio, r), torch.where(whole, mean, before)
        total, count = total.masked_fill(whole, 0), count.masked_fill(whole, 0)
        for buffer, values in zip(buffers, (r, before, total, count), strict=True):
            buffer[here] = values.to(buffer)
        return w, None


CHOICE = Choice(
    about="DWA: a task whose loss falls slowly weighs more (Liu et al. 2019)",
    make=lambda setup: DWA(setup.tasks),
    needs="losses",
    invariants=frozenset({"permutation", "scale", "one task", "absent task"}),
)
