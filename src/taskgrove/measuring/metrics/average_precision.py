"""Average precision: the area under the precision-recall curve, by steps.

    AP = sum_k (R_k - R_(k-1)) P_k        over the distinct scores k, from the highest down

Two classes: of the second class. More classes, and labels: the mean over the classes that have both
a row inside and a row outside; NaN where no class has.

In the twin, only scores that some positive row has can add to the sum, so with
    m_k  how often positive rows with score k were drawn
    T_k  the same for score k or higher        N_k  of all rows with score k or higher
    AP = sum_k m_k (T_k / N_k) / T_last
and one sort serves all resamples.
"""

import numpy as np
from jaxtyping import Bool, Float, Real
from sklearn.metrics import average_precision_score

from taskgrove.measuring.metrics.metric import Metric
from taskgrove.measuring.metrics.resampling import by_row, mean_defined, ratio, sum_by_group


def score(
    prediction: Float[np.ndarray, "row class"], target: Real[np.ndarray, "row *columns"]
) -> float:
    each = [_score(positive, scores) for positive, scores in _one_against_rest(prediction, target)]
    return float(mean_defined(np.array(each)[:, None])[0])


def weighted(
    prediction: Float[np.ndarray, "row class"],
    target: Real[np.ndarray, "row *columns"],
    weights: Float[np.ndarray, "resample row"],
) -> Float[np.ndarray, " resample"]:
    drawn = by_row(weights)
    return mean_defined(
        np.stack([_weighted(p, s, drawn) for p, s in _one_against_rest(prediction, target)])
    )


def _one_against_rest(prediction: np.ndarray, target: np.ndarray):
    """Per class: which rows are inside [row], and their scores [row]."""
    classes = prediction.shape[1]
    if target.ndim == 2:
        return [(target[:, c] > 0, prediction[:, c]) for c in range(classes)]
    return [(target == c, prediction[:, c]) for c in ([1] if classes == 2 else range(classes))]


def _score(positive: Bool[np.ndarray, " row"], scores: Float[np.ndarray, " row"]) -> float:
    if positive.all() or not positive.any():
        return float("nan")
    return float(average_precision_score(positive, scores))


def _weighted(
    positive: Bool[np.ndarray, " row"],
    scores: Float[np.ndarray, " row"],
    drawn: Float[np.ndarray, "row resample"],
) -> Float[np.ndarray, " resample"]:
    steps = np.unique(scores[positive])[::-1]  # [step], descending
    if len(steps) == 0:
        return np.full(drawn.shape[1], np.nan)
    step = len(steps) - np.searchsorted(steps[::-1], scores, side="right")  # highest step reached
    step = np.where(step < len(steps), step, -1)  # [row], -1 below all positive rows
    m = sum_by_group(drawn, np.where(positive, step, -1), len(steps))  # [step resample]
    T = m.cumsum(0)
    N = sum_by_group(drawn, step, len(steps)).cumsum(0)
    both = T[-1] < drawn.sum(0)  # some row outside was drawn
    return np.where(both, ratio((m * T / np.maximum(N, 1)).sum(0), T[-1]), np.nan)


AVERAGE_PRECISION = Metric(
    "average_precision", ("classes", "labels"), True, (0.0, 1.0), score, weighted
)
