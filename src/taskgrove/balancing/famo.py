"""FAMO: all losses should fall at the same rate, at the price of a forward pass.

FAMO: Fast Adaptive Multitask Optimization, Liu, Feng, Stone, Liu, NeurIPS 2023, arXiv 2306.03792,
algorithm 1; defaults are the released code's (github.com/Cranial-XIX/FAMO).

The direction that maximises the smallest rate of improvement, (L - L') / L over the tasks, is a
convex combination of the gradients of log L_t. Its logits xi take one step for each model step,
from the rates that the step has just brought: a task that fell more than the others loses weight.

    z = softmax(xi + log share);   w_t = c z_t / L_t,   c = 1 / sum_j z_j / L_j
    after the optimiser's step, on the same batch:   delta_t = log L_t - log L_t(new)
    xi <- Adam(xi, J^T delta + gamma xi),   J^T delta = z * (delta - z . delta)

Symbols: xi [all tasks], 0 at first; z, L, w, delta [task] over the present tasks; Adam's rate
0.025, gamma 0.01 (weight decay within the gradient), betas 0.9 and 0.999. The infimum of a loss is
taken to be 0, as in the released code: subtract it where it is known to be another. Adam keeps a
count for each task: an absent task keeps xi, moments and count. Where a loss is under 1e-8 of the
largest present one it counts as that much (the code adds 1e-8); where none is above 0, w = share.
Cost: four numbers a task; one backward pass, and one more forward pass of the batch.
Use it when losses come in different units, fall at different speeds, and K backward passes are too
dear.
Tuned sums do as well when a loss may come near 0: it takes nearly all the weight, which is all of
the step, whether or not its task has anything left to learn.
Differs from the paper: log share, which is nothing where shares are equal; 1e-8 is relative; the
gradient is not clipped here (the code clips its norm to 1).
"""

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor, nn

from taskgrove.balancing.choice import Choice, Statistic

LEAST = 1e-8  # of the largest loss


def famo(z: Float64[Tensor, " task"], D: Float64[Tensor, " task"]) -> Float64[Tensor, " task"]:
    """w = c z / D, for D > 0."""
    w = z * (D.min() / D)
    return w / w.sum()


class FAMO(nn.Module):
    """The weighting; `observe` closes each step."""

    xi: Tensor
    m: Tensor  # Adam's moments of xi
    v: Tensor
    count: Tensor  # Adam's steps, for each task

    def __init__(self, tasks: int, rate: float = 0.025, gamma: float = 0.01) -> None:
        super().__init__()
        self.rate, self.gamma = rate, gamma
        for name in ("xi", "m", "v", "count"):
            self.register_buffer(name, torch.zeros(tasks))
        self.before: Statistic | None = None  # of the step under way

    @torch.no_grad()
    def forward(self, statistic: Statistic) -> tuple[Float64[Tensor, " task"], None]:
        """w."""
        self.before = statistic
        if statistic.losses.max() <= 0:
            return statistic.share, None
        xi = self.xi.cpu()[statistic.tasks].double()
        return famo(_softmax(xi, statistic.share), _above_zero(statistic.losses)), None

    @torch.no_grad()
    def observe(self, tasks: Int[Tensor, " task"], losses: Float[Tensor, " task"]) -> None:
        """Moves xi by what the optimiser's step did to the losses of the same batch.

        Nothing moves where no step is under way, or losses are not finite, or none is above 0.
        """
        old, self.before = self.before, None
        if old is None or not losses.isfinite().all():
            return
        assert torch.equal(tasks.cpu(), old.tasks.cpu())
        new = losses.cpu().double()
        if new.max() <= 0 or old.losses.max() <= 0:
            return
        delta = torch.log(_above_zero(old.losses) / _above_zero(new))
        buffers = (self.xi, self.m, self.v, self.count)
        here = tasks.to(self.xi.device)
        xi, m, v, count = (buffer[here].cpu().double() for buffer in buffers)  # [task] each
        z = _softmax(xi, old.share)
        gradient = z * (delta - (z * delta).sum()) + self.gamma * xi
        moved = adam(xi, m, v, count, gradient, self.rate)
        for buffer, values in zip(buffers, moved, strict=True):
            buffer[here] = values.to(buffer)


def adam(
    xi: Tensor, m: Tensor, v: Tensor, count: Tensor, gradient: Tensor, rate: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Adam's step (Kingma, Ba 2015); its 1e-8 is no loss's scale: rates have no unit."""
    count = count + 1
    m = 0.9 * m + 0.1 * gradient
    v = 0.999 * v + 0.001 * gradient**2
    step = (m / (1 - 0.9**count)) / (torch.sqrt(v / (1 - 0.999**count)) + 1e-8)
    return xi - rate * step, m, v, count


def _softmax(xi: Tensor, share: Tensor) -> Tensor:
    return torch.softmax(xi + share.log(), 0)


def _above_zero(losses: Tensor) -> Tensor:
    return losses.clamp(min=LEAST * losses.max())


CHOICE = Choice(
    about="FAMO: all losses fall at the same rate, one more forward pass (Liu et al. 2023)",
    make=lambda setup: FAMO(setup.tasks),
    needs="losses",
    invariants=frozenset({"permutation", "scale", "one task", "absent task"}),
    again=True,
)
