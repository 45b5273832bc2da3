"""F1 = 2 hits / (predicted + actual): the mean over classes (macro), or all labels pooled (micro).

Macro, for classes: the mean over the classes that occur in the target or among the predictions.
Micro, for labels: a label is predicted where its probability is at least 0.5; NaN where the target
holds no label at all.
"""

import numpy as np
from jaxtyping import Float, Integer, Real
from sklearn.metrics import f1_score

from taskgrove.measuring.metrics.metric import Metric
from taskgrove.measuring.metrics.resampling import by_row, mean_defined, ratio, sum_by_group


def macro_score(
    prediction: Float[np.ndarray, "row class"], target: Integer[np.ndarray, " row"]
) -> float:
    return float(f1_score(target, prediction.argmax(1), average="macro"))


def macro_weighted(
    prediction: Float[np.ndarray, "row class"],
    target: Integer[np.ndarray, " row"],
    weights: Float[np.ndarray, "resample row"],
) -> Float[np.ndarray, " resample"]:
    drawn, classes, chosen = by_row(weights), prediction.shape[1], prediction.argmax(1)
    actual = sum_by_group(drawn, target, classes)  # [class resample]
    predicted = sum_by_group(drawn, chosen, classes)
    hits = sum_by_group(drawn, np.where(chosen == target, target, -1), classes)
    return mean_defined(ratio(2 * hits, predicted + actual))


def micro_score(
    prediction: Float[np.ndarray, "row class"], target: Real[np.ndarray, "row class"]
) -> float:
    if not target.any():
        return float("nan")
    actual, predicted = target.ravel() > 0, prediction.ravel() >= 0.5
    return float(f1_score(actual, predicted))


def micro_weighted(
    prediction: Float[np.ndarray, "row class"],
    target: Real[np.ndarray, "row class"],
    weights: Float[np.ndarray, "resample row"],
) -> Float[np.ndarray, " resample"]:
    actual, predicted = target > 0, prediction >= 0.5
    hits = weights @ (actual & predicted).sum(1).astype(np.float64)
    wanted = weights @ actual.sum(1).astype(np.float64)
    both = wanted + weights @ predicted.sum(1).astype(np.float64)
    return np.where(wanted > 0, ratio(2 * hits, both), np.nan)


MACRO_F1 = Metric("macro_f1", ("classes",), True, (0.0, 1.0), macro_score, macro_weighted)
MICRO_F1 = Metric("micro_f1", ("labels",), True, (0.0, 1.0), micro_score, micro_weighted)
