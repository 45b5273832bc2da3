"""GLS: the geometric mean of the losses.

MultiNet++: Multi-Stream Feature Aggregation and Geometric Loss Strategy for Multi-Task Learning,
Chennupati, Sistu, Yogamani, Rawashdeh, CVPR workshops 2019, arXiv 1904.08492.

A product of losses does not ask for their units: halving any of them is worth the same. The root
brings it back to the size of one loss, and there are no weights to tune.

    minimise  P = prod_t L_t^share_t;   w_t = dP / dL_t = share_t P / L_t

Symbols: share, L, w [task]; P scalar. The "scale-invariant" objective sum_t share_t log L_t has the
gradient weights share_t / L_t: P times those are GLS's, so both have the same direction, and GLS
shortens its step as the losses fall. (Uncertainty weighting and IMTL-L come to that direction too,
once settled.) The weights sum to at least 1, and to 1 where the losses are equal. Fall-back: where
a loss is not above 0 there is no geometric mean, and w = share.
Cost: K logarithms; one backward pass.
Use it when losses are positive and come in different units.
Tuned sums do as well when one loss may come near 0: its weight then grows like 1 / L_t^(1 - share)
and GLS takes wild steps.
Differs from the paper: shares are the exponents, 1 / K in the paper.
"""

import torch
from jaxtyping import Float64
from torch import Tensor

from taskgrove.balancing.choice import Choice, Statistic


def gls(
    losses: Float64[Tensor, " task"], share: Float64[Tensor, " task"]
) -> Float64[Tensor, " task"]:
    """w, the gradient of the geometric mean."""
    if losses.max() <= 0:
        return share
    L = losses / losses.max()  # w does not depend on a common factor
    if (L <= 0).any():
        return share
    P = torch.exp((share * L.log()).sum())
    return share * P / L


def weigh(statistic: Statistic) -> tuple[Float64[Tensor, " task"], None]:
    """w of a step."""
    return gls(statistic.losses, statistic.share), None


CHOICE = Choice(
    about="GLS: the geometric mean of the losses (Chennupati et al. 2019)",
    make=lambda _setup: weigh,
    needs="losses",
    invariants=frozenset({"permutation", "scale", "row scale", "one task", "absent task"}),
)
