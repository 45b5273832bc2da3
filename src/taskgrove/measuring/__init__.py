"""How we know: metrics, relative gain over separate models, intervals, verdicts."""

from taskgrove.measuring.bootstrap import Interval, Standing, bootstrap
from taskgrove.measuring.exam import Exam, Predictions
from taskgrove.measuring.metrics import DEFAULT_METRIC, METRICS, metric_for
from taskgrove.measuring.metrics.metric import Metric
from taskgrove.measuring.relative_gain import delta_m, gain_per_task, relative_gain
from taskgrove.measuring.verdict import verdict

__all__ = [
    "DEFAULT_METRIC",
    "METRICS",
    "Exam",
    "Interval",
    "Metric",
    "Predictions",
    "Standing",
    "bootstrap",
    "delta_m",
    "gain_per_task",
    "metric_for",
    "relative_gain",
    "verdict",
]
