"""Metrics of the residual e = target - prediction.

    rmse = sqrt(mean e^2)        mae = mean |e|        r2 = 1 - sum e^2 / sum (target - its mean)^2

r2 is NaN where the target is constant.
"""

import numpy as np
from jaxtyping import Float, Real
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error

from taskgrove.measuring.metrics.metric import Metric
from taskgrove.measuring.metrics.resampling import ratio

Prediction = Float[np.ndarray, " row"]
Target = Real[np.ndarray, " row"]
Weights = Float[np.ndarray, "resample row"]
Scores = Float[np.ndarray, " resample"]


def rmse_score(prediction: Prediction, target: Target) -> float:
    return float(root_mean_squared_error(target, prediction.astype(np.float64)))


def rmse_weighted(prediction: Prediction, target: Target, weights: Weights) -> Scores:
    return np.sqrt(ratio(weights @ _residual(prediction, target) ** 2, weights.sum(1)))


def mae_score(prediction: Prediction, target: Target) -> float:
    return float(mean_absolute_error(target, prediction.astype(np.float64)))


def mae_weighted(prediction: Prediction, target: Target, weights: Weights) -> Scores:
    return ratio(weights @ np.abs(_residual(prediction, target)), weights.sum(1))


def r2_score_or_nan(prediction: Prediction, target: Target) -> float:
    if target.min() == target.max():
        return float("nan")
    return float(r2_score(target, prediction.astype(np.float64)))


def r2_weighted(prediction: Prediction, target: Target, weights: Weights) -> Scores:
    y = target.astype(np.float64)
    mean = ratio(weights @ y, weights.sum(1))  # [resample]
    total = (weights * (y - mean[:, None]) ** 2).sum(1)
    r2 = 1 - ratio(weights @ _residual(prediction, target) ** 2, total)
    return np.where(_varies(y, weights > 0), r2, np.nan)


def _varies(y: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """Whether the drawn rows differ at all [resample]; a sum of squares would only be near zero."""
    y = np.broadcast_to(y, drawn.shape)
    return y.max(1, where=drawn, initial=-np.inf) > y.min(1, where=drawn, initial=np.inf)


def _residual(prediction: np.ndarray, target: np.ndarray) -> np.ndarray:
    return target.astype(np.float64) - prediction.astype(np.float64)


RMSE = Metric("rmse", ("number",), False, (0.0, np.inf), rmse_score, rmse_weighted)
MAE = Metric("mae", ("number",), False, (0.0, np.inf), mae_score, mae_weighted)
R2 = Metric("r2", ("number",), True, (-np.inf, 1.0), r2_score_or_nan, r2_weighted)
