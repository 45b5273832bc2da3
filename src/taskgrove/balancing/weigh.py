"""weigh: calls a weighting, and answers with the mean where there is nothing to weigh.

The Gramian is divided by a power of 4 (exact), so that its largest diagonal element lies in [1, 4):
a weighting sees the same numbers, bit for bit, whatever power of two the losses are scaled by.
Fall-back: where losses or Gramian hold a NaN or an infinity, or the answer does, w = share and the
weighting's state stays as it was. An overflow of mixed precision so reaches the loss scaler as
plain gradients would. A Gramian of zeros is answered by w = share too, and is no fall-back.
"""

import logging
import math
from dataclasses import dataclass, replace

from jaxtyping import Float64
from torch import Tensor

from taskgrove.balancing.choice import Aggregator, Statistic, Weighting

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Weighed:
    """The weights, what a learned weighting minimises, and whether they are a fall-back."""

    weights: Float64[Tensor, " task"]
    objective: Tensor | None = None
    fallback: bool = False


def weigh(weighting: Weighting, statistic: Statistic) -> Weighed:
    """w of a step; never raises for a reason of data."""
    gramian = statistic.gramian
    if not _finite(statistic):
        return fall_back(statistic, "a loss or gradient is not finite")
    if gramian is not None:
        if not gramian.diagonal().any():
            return Weighed(statistic.share)
        statistic = replace(statistic, gramian=normalised(gramian))
    weights, objective = weighting(statistic)
    if not weights.isfinite().all():
        return fall_back(statistic, "the weights are not finite")
    return Weighed(weights, objective)


def aggregate(
    aggregator: Aggregator, statistic: Statistic, rows: Tensor
) -> tuple[Tensor | None, Weighed]:
    """d of a step, or None and the fall-back's weights."""
    if not _finite(statistic):
        return None, fall_back(statistic, "a loss or gradient is not finite")
    return aggregator(statistic, rows), Weighed(statistic.share)


def fall_back(statistic: Statistic, why: str) -> Weighed:
    """The mean, told in the log."""
    logger.warning("step %d: %s: weights are the mean's", statistic.step, why)
    return Weighed(statistic.share, fallback=True)


def normalised(gramian: Float64[Tensor, "task task"]) -> Float64[Tensor, "task task"]:
    """M / 4^e with its largest diagonal element in [1, 4)."""
    exponent = math.frexp(gramian.diagonal().max().item())[1] - 1
    half = math.ldexp(1.0, -(exponent // 2))  # twice, as the whole may be no float's
    return gramian * half * half


def _finite(statistic: Statistic) -> bool:
    found = math.isfinite(statistic.losses.sum().item())  # no sum of doubles here overflows
    if found and statistic.gramian is not None:
        found = math.isfinite(statistic.gramian.sum().item())
    return found
