"""Log loss: the mean of -log(probability of the target), the probabilities scaled to sum to 1."""

import numpy as np
from jaxtyping import Float, Integer
from sklearn import metrics

from taskgrove.measuring.metrics.metric import Metric
from taskgrove.measuring.metrics.resampling import ratio


def score(prediction: Float[np.ndarray, "row class"], target: Integer[np.ndarray, " row"]) -> float:
    classes = np.arange(prediction.shape[1])
    return float(metrics.log_loss(target, _probabilities(prediction), labels=classes))


def weighted(
    prediction: Float[np.ndarray, "row class"],
    target: Integer[np.ndarray, " row"],
    weights: Float[np.ndarray, "resample row"],
) -> Float[np.ndarray, " resample"]:
    loss = -np.log(_probabilities(prediction)[np.arange(len(target)), target])  # [row]
    return ratio(weights @ loss, weights.sum(1))


def _probabilities(prediction: np.ndarray) -> np.ndarray:
    """In float64, summing to 1, and kept off 0 and 1 as scikit-learn does."""
    p = prediction.astype(np.float64)
    p = p / p.sum(1, keepdims=True)
    tiny = np.finfo(np.float64).eps
    return p.clip(tiny, 1 - tiny)


LOG_LOSS = Metric("log_loss", ("classes",), False, (0.0, np.inf), score, weighted)
