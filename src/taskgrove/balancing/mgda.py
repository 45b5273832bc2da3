"""MGDA: the multiple-gradient descent algorithm.

Multiple-gradient descent algorithm (MGDA) for multiobjective optimization, Desideri, Comptes
Rendus Mathematique 2012, https://doi.org/10.1016/j.crma.2012.03.014; for deep networks Multi-Task
Learning as Multi-Objective Optimization, Sener, Koltun, NeurIPS 2018, arXiv 1810.04650.

Idea: the shortest vector in the convex hull of the gradients descends on all tasks equally fast
(those with a weight), and is zero only where no direction improves all of them.

    w = argmin w^T M w  over  w >= 0, sum w = 1;   d = sum_t w_t g_t;   d . g_t >= |d|^2.
    Normalised: the same for g_t / n_t, with n_t = |g_t| ("l2"), L_t ("loss") or L_t |g_t|
    ("loss+"); then w_t / n_t, divided by their sum.

Symbols: K tasks; M = G G^T [task task], w, n, losses L [task] float64. share is not used.
Cost: K^3 / 3 a step of the solver, about 5 steps; one backward pass a task.
Use it when every task must improve in every step, however little: fairness before speed.
Tuned sums do as well when one task's gradient is much smaller than the others': MGDA's step is
about as short as that gradient (a task that has converged stops all others; a zero row gets all
the weight), so the normalised variants or fixed weights train faster.
Differs from the papers: an exact solver instead of Frank-Wolfe's 250 steps; the normalised
variants combine normalised gradients (which descends on all tasks; Sener and Koltun's code uses
their w with the plain ones, which need not) and weights sum to 1.
"""

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from taskgrove.balancing.choice import Choice, Setup, Statistic, Weighting
from taskgrove.balancing.simplex import min_norm_point

Normalise = Literal["none", "l2", "loss", "loss+"]


def mgda(
    M: Float64[Tensor, "task task"],
    share: Float64[Tensor, " task"],
    normalise: Normalise = "none",
    losses: Float64[Tensor, " task"] | None = None,
) -> Float64[Tensor, " task"]:
    """w; `losses` only for "loss" and "loss+", where a loss of zero or less is not normalised."""
    m = M.numpy()
    if not m.any():
        return share.clone()
    n = np.ones(len(m))
    if normalise in ("l2", "loss+"):
        n *= np.sqrt(np.where(m.diagonal() > 0, m.diagonal(), 1.0))
    if normalise in ("loss", "loss+"):
        assert losses is not None, f'normalise="{normalise}" needs the losses'
        n *= np.where(losses.numpy() > 0, losses.numpy(), 1.0)
    w = min_norm_point(m / np.outer(n, n)) / n
    return torch.from_numpy(w / w.sum())


def weighting(normalise: Normalise) -> Callable[[Setup], Weighting]:
    """`make` of MGDA with this normalisation."""

    def weigh(statistic: Statistic) -> tuple[Tensor, None]:
        assert statistic.gramian is not None
        return mgda(statistic.gramian, statistic.share, normalise, statistic.losses), None

    return lambda _setup: weigh


CHOICE = Choice(
    about="the shortest vector in the hull of the gradients (Desideri 2012; Sener, Koltun 2018)",
    make=weighting("none"),
    needs="gramian",
    invariants=frozenset(
        {"permutation", "scale", "non-conflict", "stationarity", "one task", "absent task"}
    ),
)
