"""The metrics, by name, and which one a task gets."""

from taskgrove.errors import TaskgroveError, did_you_mean, listed
from taskgrove.measuring.metrics.accuracy import ACCURACY
from taskgrove.measuring.metrics.average_precision import AVERAGE_PRECISION
from taskgrove.measuring.metrics.f1 import MACRO_F1, MICRO_F1
from taskgrove.measuring.metrics.log_loss import LOG_LOSS
from taskgrove.measuring.metrics.metric import Metric
from taskgrove.measuring.metrics.residuals import MAE, R2, RMSE
from taskgrove.measuring.metrics.spearman import SPEARMAN
from taskgrove.tasks.task import MAPS

METRICS: dict[str, Metric] = {
    "accuracy": ACCURACY,
    "macro_f1": MACRO_F1,
    "average_precision": AVERAGE_PRECISION,
    "log_loss": LOG_LOSS,
    "micro_f1": MICRO_F1,
    "r2": R2,
    "rmse": RMSE,
    "mae": MAE,
    "spearman": SPEARMAN,
}

DEFAULT_METRIC = {"classes": "accuracy", "labels": "average_precision", "number": "r2", **MAPS}


def _made(kind: str) -> dict[str, Metric]:
    """Every metric by name; those of maps too, where the kind is one."""
    from taskgrove.measuring.dense import DENSE  # which reads this folder

    return {**METRICS, **DENSE} if kind in MAPS else METRICS


def metric_for(kind: str, name: str | None = None) -> Metric:
    """The named metric, or the default one, for targets of a kind.

    >>> metric_for("number").name
    'r2'
    """
    if kind not in DEFAULT_METRIC:
        hint = did_you_mean(kind, DEFAULT_METRIC)
        raise TaskgroveError(
            f'"{kind}" is not a kind of target (there are: {listed(DEFAULT_METRIC, 20)}).{hint}'
        )
    name = DEFAULT_METRIC[kind] if name is None else name
    metrics = _made(kind)
    made = [metric.name for metric in metrics.values() if kind in metric.kinds]
    if name not in made:
        problem = f"is not made for {kind}" if name in metrics else "is not a metric"
        hint = did_you_mean(name, made)
        raise TaskgroveError(f'"{name}" {problem} (made for {kind}: {listed(made)}).{hint}')
    return metrics[name]
