"""GradNorm: gradient norms follow the tasks' rates of training.

GradNorm: Gradient Normalization for Adaptive Loss Balancing in Deep Multitask Networks, Chen,
Badrinarayanan, Lee, Rabinovich, ICML 2018, arXiv 1711.02257, algorithm 1.

A task whose weighted gradient is large prevails. Weights are learned that bring all norms to a
common one, higher for tasks whose loss has fallen less since the start; alpha says how much higher.

    w = softmax(v + log share),   a_t = w_t / share_t            (the paper's weights: sum K)
    G_t = a_t |g_t|,   G = sum_t share_t G_t
    r_t = (L_t / L_t(0)) / sum_j share_j L_j / L_j(0)
    minimise  sum_t share_t |G_t / G - r_t^alpha|  over v, with G and r constant

Symbols: v [all tasks], parameters, 0 at first; g_t the gradient of the level that the caller chose
(the paper: the last shared layer), |g_t| = sqrt(M_tt); L, L(0), share, w, a, r [task] over the
present tasks; G scalar; alpha 1.5, the paper's for NYUv2. L_t(0) is a task's first loss above 0.
An absent task keeps L(0), and its v has no gradient. Where all gradients are 0 there is nothing to
minimise. Without a first loss above 0, L / L(0) counts as 1; a loss under 0 as 0.
Cost: two numbers a task; one backward pass a task down to that level, for M's diagonal.
Use it when losses differ in scale or in speed and per-task gradients of one layer are cheap.
Tuned sums do as well when alpha must be tuned anyway, or when L(0) says little, as after
pre-training.
Differs from the paper: v are logits, so that weights stay positive and keep their sum without
renormalising after each step; the objective is a mean, divided by G, so that the scale of the
losses does not set the speed of v; w sums to 1, not to K.
"""

import torch
from jaxtyping import Float64
from torch import Tensor, nn

from taskgrove.balancing.choice import Choice, Statistic


def gradnorm(
    G: Float64[Tensor, " task"],
    r: Float64[Tensor, " task"],
    share: Float64[Tensor, " task"],
    alpha: float,
) -> Float64[Tensor, ""]:
    """The objective, for norms G_t that are not all 0."""
    mean = (share * G.detach()).sum()
    return (share * (G / mean - r**alpha).abs()).sum()


def training_rates(
    L: Float64[Tensor, " task"], first: Float64[Tensor, " task"], share: Float64[Tensor, " task"]
) -> Float64[Tensor, " task"]:
    """r; `first` is L(0), or 0 where it is not known."""
    ratio = torch.where(first > 0, (L / first).clamp(min=0), 1.0)
    mean = (share * ratio).sum()
    return ratio / mean if mean > 0 else torch.ones_like(ratio)


class GradNorm(nn.Module):
    """The weighting.

    One scalar parameter a task, so that an optimiser leaves alone the v of an absent task.
    """

    first: Tensor

    def __init__(self, tasks: int, alpha: float = 1.5) -> None:
        super().__init__()
        self.alpha = alpha
        self.v = nn.ParameterList(torch.zeros(()) for _ in range(tasks))
        self.register_buffer("first", torch.zeros(tasks))

    def forward(self, statistic: Statistic) -> tuple[Float64[Tensor, " task"], Tensor | None]:
        """w and the objective."""
        assert statistic.gramian is not None
        share, L = statistic.share, statistic.losses
        v = torch.stack([self.v[task] for task in statistic.tasks.tolist()]).cpu().double()
        w = torch.softmax(v + share.log(), 0)
        r = training_rates(L, self._first(statistic), share)
        G = w / share * statistic.gramian.diagonal().clamp(min=0).sqrt()
        objective = gradnorm(G, r, share, self.alpha) if G.any() else None
        return w.detach(), objective

    @torch.no_grad()
    def _first(self, statistic: Statistic) -> Float64[Tensor, " task"]:
        """L(0), which a task's first loss above 0 sets."""
        here = statistic.tasks.to(self.first.device)
        first = self.first[here].cpu().double()
        first = torch.where(first > 0, first, statistic.losses.clamp(min=0))
        self.first[here] = first.to(self.first)
        return first


CHOICE = Choice(
    about="GradNorm: gradient norms follow the rates of training (Chen et al. 2018)",
    make=lambda setup: GradNorm(setup.tasks),
    needs="gramian",
    invariants=frozenset({"permutation", "scale", "one task", "absent task"}),
)
