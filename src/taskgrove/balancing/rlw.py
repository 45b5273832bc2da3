"""RLW: random weights at every step.

Reasonable Effectiveness of Random Weighting: A Litmus Test for Multi-Task Learning, Lin, Ye, Zhang,
Tsang, TMLR 2022, arXiv 2111.10603.

Weights drawn anew at every step have the mean as their expectation. The noise may help to leave
poor minima; above all, a method that is not better than this one has learned nothing of the tasks.

    w = softmax(x + log share),   x ~ N(0, 1) for each task and step

Symbols: x [all tasks] drawn from (seed, step), of which the present tasks' are used; share, w
[task]. A resumed run repeats its draws, and so does each process. The draw of a task does not
depend on which others are present.
Cost: K normal draws; one backward pass.
Use it when you need a control for another method.
Tuned sums do as well when nothing but the result counts: the paper itself claims to match, not to
beat, other methods.
Differs from the paper: log share, which is nothing where shares are equal (then w = softmax(x)).
"""

from collections.abc import Callable

import torch
from jaxtyping import Float64
from torch import Tensor

from taskgrove.balancing.choice import Choice, Setup, Statistic


def rlw(x: Float64[Tensor, " task"], share: Float64[Tensor, " task"]) -> Float64[Tensor, " task"]:
    """w of the draws x."""
    return torch.softmax(x + share.log(), 0)


def make(setup: Setup) -> Callable[[Statistic], tuple[Tensor, None]]:
    """The weighting, whose draws come from (seed, step)."""

    def weigh(statistic: Statistic) -> tuple[Tensor, None]:
        generator = torch.Generator().manual_seed(setup.seed * 1_000_003 + statistic.step)
        x = torch.randn(setup.tasks, generator=generator, dtype=torch.float64)
        return rlw(x[statistic.tasks], statistic.share), None

    return weigh


CHOICE = Choice(
    about="RLW: random weights at every step, a litmus test (Lin et al. 2022)",
    make=make,
    needs="nothing",
    invariants=frozenset({"scale", "one task"}),
)
