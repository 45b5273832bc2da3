"""The mean over the batch's labels: w_t = share_t.

Sum of task losses, each weighted by its share of the labels in the batch: the mixture's rates are
then the tasks' weights. The strongest simple baseline when those rates are tuned (Kurin et al.
2022, In Defense of the Unitary Scalarization for Deep Multi-Task Learning; Xin et al. 2022).
Symbols: share, w [task]. Differs from the papers: nothing.
"""

from torch import Tensor

from taskgrove.balancing.weighting import Statistic


def mean(statistic: Statistic) -> tuple[Tensor, None]:
    """w = share."""
    return statistic.share, None
