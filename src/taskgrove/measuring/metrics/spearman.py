"""Spearman's rank correlation (C. Spearman, 1904): Pearson's correlation of the ranks.

Equal values share the mean of their ranks. In a resample of n rows, a value drawn w times, with b
smaller values drawn, has the rank b + (w + 1) / 2; the mean rank is (n + 1) / 2.
NaN where the target is constant; 0 where only the prediction is, since it then orders nothing.
"""

import numpy as np
from jaxtyping import Float, Real
from scipy.stats import spearmanr

from taskgrove.measuring.metrics.metric import Metric
from taskgrove.measuring.metrics.resampling import by_row, ratio, sum_by_group


def score(prediction: Float[np.ndarray, " row"], target: Real[np.ndarray, " row"]) -> float:
    if target.min() == target.max():
        return float("nan")
    if prediction.min() == prediction.max():
        return 0.0
    return float(np.asarray(spearmanr(prediction, target))[0])


def weighted(
    prediction: Float[np.ndarray, " row"],
    target: Real[np.ndarray, " row"],
    weights: Float[np.ndarray, "resample row"],
) -> Float[np.ndarray, " resample"]:
    drawn = by_row(weights)
    a, b = _centred_ranks(prediction, drawn), _centred_ranks(target, drawn)  # [row resample]
    weighted_a = drawn * a
    covariance = (weighted_a * b).sum(0)
    spread_a, spread_b = (weighted_a * a).sum(0), (drawn * b * b).sum(0)
    rho = ratio(covariance, np.sqrt(spread_a * spread_b))
    return np.where((spread_a == 0) & (spread_b > 0), 0.0, rho)


def _centred_ranks(
    values: Real[np.ndarray, " row"], drawn: Float[np.ndarray, "row resample"]
) -> Float[np.ndarray, "row resample"]:
    distinct, value = np.unique(values, return_inverse=True)
    w = sum_by_group(drawn, value, len(distinct))  # [value resample]
    below = w.cumsum(0) - w
    rank = below + (w + 1) / 2
    return (rank - (drawn.sum(0) + 1) / 2)[value]


SPEARMAN = Metric("spearman", ("number",), True, (-1.0, 1.0), score, weighted)
