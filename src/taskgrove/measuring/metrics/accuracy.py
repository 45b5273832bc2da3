"""Accuracy: the share of rows whose most probable class is the target."""

import numpy as np
from jaxtyping import Float, Integer
from sklearn.metrics import accuracy_score

from taskgrove.measuring.metrics.metric import Metric
from taskgrove.measuring.metrics.resampling import ratio


def score(prediction: Float[np.ndarray, "row class"], target: Integer[np.ndarray, " row"]) -> float:
    return float(accuracy_score(target, prediction.argmax(1)))


def weighted(
    prediction: Float[np.ndarray, "row class"],
    target: Integer[np.ndarray, " row"],
    weights: Float[np.ndarray, "resample row"],
) -> Float[np.ndarray, " resample"]:
    hit = (prediction.argmax(1) == target).astype(np.float64)  # [row]
    return ratio(weights @ hit, weights.sum(1))


ACCURACY = Metric("accuracy", ("classes",), True, (0.0, 1.0), score, weighted)
