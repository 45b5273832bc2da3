"""Mean: each task counts by its share.

In Defense of the Unitary Scalarization for Deep Multi-Task Learning, Kurin, De Palma, Kostrikov,
Whiteson, Pawan Kumar, NeurIPS 2022, arXiv 2201.04122; Do Current Multi-Task Optimization Methods
in Deep Learning Even Help?, Xin, Ghorbani, Gilmer, Garg, Firat, NeurIPS 2022, arXiv 2209.11379.

One loss, the mean of the tasks' losses, and nothing else. Both papers find that it is not behind
the specialised methods once regularisation, learning rate and (Xin et al.) the weights are tuned as
well as theirs.

    mean:  w_t = share_t
    sum:   w_t = K share_t

Symbols: share, w [task]; K present tasks. The sum is K times the mean: the same direction and
another step. Plain gradient descent must divide its learning rate by K to match; Adam hardly sees
the difference, save through clipping, weight decay and a K that changes from batch to batch.
Cost: nothing; one backward pass.
Use it when you begin; keep it unless another method wins at an equal budget.
Tuned sums do as well when the shares are tuned: then they are tuned sums.
Differs from the papers: they sum; the mean's step does not grow with K.
"""

from jaxtyping import Float64
from torch import Tensor

from taskgrove.balancing.choice import Choice, Invariant, Statistic

INVARIANTS: frozenset[Invariant] = frozenset({"permutation", "scale", "one task", "absent task"})


def mean(statistic: Statistic) -> tuple[Float64[Tensor, " task"], None]:
    """w = share."""
    return statistic.share, None


def total(statistic: Statistic) -> tuple[Float64[Tensor, " task"], None]:
    """w = K share."""
    return len(statistic.share) * statistic.share, None


CHOICE = Choice(
    about="mean of the losses by share; the baseline to beat (Kurin et al., Xin et al. 2022)",
    make=lambda _setup: mean,
    needs="nothing",
    invariants=INVARIANTS,
)
SUM = Choice(
    about="sum of the losses: K times the mean (Kurin et al., Xin et al. 2022)",
    make=lambda _setup: total,
    needs="nothing",
    invariants=INVARIANTS,
)
