"""Fixed weights, given by the user.

Do Current Multi-Task Optimization Methods in Deep Learning Even Help?, Xin, Ghorbani, Gilmer, Garg,
Firat, NeurIPS 2022, arXiv 2209.11379 (scalarization).

A sum of losses with constant weights, chosen on validation data. Its best points trace the front of
what the tasks can reach together, and in the paper no method went beyond that front.

    w_t = c_t share_t / sum_j c_j share_j        over the present tasks j

Symbols: c [all tasks] >= 0, the user's weights by task number; share, w [task]. Only ratios of c
count: the step's size stays with the learning rate, so a search over c does not search it too, and
K = 1 is plain training. Where every present task has c_t = 0, w = 0. Equal c give w = share.
Cost: nothing; one backward pass.
Use it when you can afford a study over the weights, a few runs for each task.
Tuned sums do as well when c was tuned: they are this method. Untuned, it is the mean.
Differs from the paper: shares multiply, and absent tasks leave the others' weights at sum 1.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from taskgrove.balancing.choice import Choice, Setup, Statistic
from taskgrove.errors import TaskgroveError


@dataclass(frozen=True)
class Fixed:
    """The weighting; `weights` is c, one number for each task of the model."""

    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        good = all(math.isfinite(c) and c >= 0 for c in self.weights)
        if not good or not any(self.weights):
            raise TaskgroveError(
                f"fixed weights are {list(self.weights)}; expected finite numbers of 0 or more, one"
                " for each task, and one of them above 0"
            )

    def __call__(self, statistic: Statistic) -> tuple[Float64[Tensor, " task"], None]:
        """w of the present tasks."""
        c = torch.tensor(self.weights, dtype=torch.float64)
        return fixed(c[statistic.tasks], statistic.share), None


def fixed(c: Float64[Tensor, " task"], share: Float64[Tensor, " task"]) -> Float64[Tensor, " task"]:
    """w of weights c >= 0, both over the present tasks."""
    if not c.any():
        return torch.zeros_like(share)
    w = c / c.max() * share
    return w / w.sum()


def given(weights: Sequence[float]) -> Callable[[Setup], Fixed]:
    """`make` of fixed weights, one for each task."""

    def make(setup: Setup) -> Fixed:
        if len(weights) != setup.tasks:
            raise TaskgroveError(
                f"fixed weights are {len(weights)} numbers for {setup.tasks} tasks; give one for"
                " each task"
            )
        return Fixed(tuple(weights))

    return make


CHOICE = Choice(
    about="weights given by the user, tuned on validation data (Xin et al. 2022)",
    make=lambda setup: Fixed((1.0,) * setup.tasks),
    needs="nothing",
    invariants=frozenset({"permutation", "scale", "one task", "absent task"}),
)
