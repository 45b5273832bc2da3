"""Metrics of maps, over all pixels of a split; `weighted` scores resamples of whole rows.

    mean_iou       mean over classes of TP / (TP + FP + FN), of the classes that the target has
    depth_rmse     sqrt(mean (depth - target)^2), in the target's unit
    angular_error  mean angle between normals, in degrees
    ods_f          edges: the greatest F = 2PR / (P + R) over thresholds 0.01 to 0.99, P and R over
                   all rows (optimal dataset scale): "Learning to Detect Natural Image Boundaries",
                   David Martin, Charless Fowlkes, Jitendra Malik, PAMI 2004. P: edges found with
                   a true one within the tolerance, R: true ones with a found one within it
    max_f          saliency: the greatest F = 1.3PR / (0.3P + R), over the same thresholds
Differs: edges are neither thinned nor matched one to one; the tolerance is 0.0075 of the diagonal,
at least 1 pixel. Pixels of 255 or NaN do not count.
Shapes: predictions [row h w] class numbers, depths or probabilities, [row 3 h w] unit normals.
"""

from collections.abc import Callable

import numpy as np
from scipy import ndimage

from taskgrove.measuring.metrics.metric import Metric
from taskgrove.measuring.metrics.resampling import mean_defined, ratio

IGNORED = 255
THRESHOLDS = np.arange(1, 100) / 100
Counts = Callable[[np.ndarray, np.ndarray], list[np.ndarray]]  # each [row] or [row count]


def overlaps(prediction: np.ndarray, target: np.ndarray) -> list[np.ndarray]:
    """TP, FP and FN of each class: [row class] each."""
    known = target != IGNORED
    classes = int(max(prediction.max(initial=0), target[known].max(initial=0))) + 1
    table = np.zeros((len(target), classes, classes))
    for row, (p, t, k) in enumerate(zip(prediction, target, known, strict=True)):
        pair = t[k].astype(np.int64) * classes + p[k]
        table[row] = np.bincount(pair, minlength=classes**2).reshape(classes, classes)
    hit = table.diagonal(axis1=1, axis2=2)
    return [hit, table.sum(1) - hit, table.sum(2) - hit]


def _iou(hit: np.ndarray, wrong: np.ndarray, missed: np.ndarray) -> np.ndarray:
    """[resample class] each to [resample]."""
    each = np.where(hit + missed > 0, ratio(hit, hit + wrong + missed), np.nan)
    return mean_defined(each.T)


def _squares(prediction: np.ndarray, target: np.ndarray) -> list[np.ndarray]:
    known = np.logical_not(np.isnan(target))
    e = np.where(known, prediction.astype(np.float64) - np.where(known, target, 0), 0)
    return [(e * e).sum((1, 2)), known.sum((1, 2)).astype(np.float64)]


def _angles(prediction: np.ndarray, target: np.ndarray) -> list[np.ndarray]:
    known = np.logical_not(np.isnan(target).any(1))
    a, b = prediction.astype(np.float64), np.where(known[:, None], target, 0).astype(np.float64)
    across = np.linalg.norm(np.cross(a, b, axis=1), axis=1)
    angle = np.degrees(np.arctan2(across, (a * b).sum(1)))  # exact near 0 too
    return [np.where(known, angle, 0).sum((1, 2)), known.sum((1, 2)).astype(np.float64)]


def disc(height: int, width: int) -> np.ndarray:
    """The pixels within the tolerance of the middle one."""
    r = max(1.0, 0.0075 * float(np.hypot(height, width)))
    y, x = np.mgrid[-int(r) : int(r) + 1, -int(r) : int(r) + 1]
    return x * x + y * y <= r * r


def _at_least(values: np.ndarray) -> np.ndarray:
    """How many values reach each threshold [threshold]."""
    ordered = np.sort(values.astype(np.float64) + 1e-9)
    return (len(ordered) - np.searchsorted(ordered, THRESHOLDS)).astype(np.float64)


def found_and_true(near: bool) -> Counts:
    """Right and all that is found, met and all that is true: [row threshold] each."""

    def counts(prediction: np.ndarray, target: np.ndarray) -> list[np.ndarray]:
        rows = []
        area = disc(*target.shape[1:]) if near else np.ones((1, 1), bool)
        for p, t in zip(prediction.astype(np.float32), target, strict=True):
            true, known = t == 1, t != IGNORED
            p = np.where(known, p, 0)
            right = ndimage.binary_dilation(true, area) & known
            reach = ndimage.grey_dilation(p, footprint=area, mode="constant")
            everything = np.full(len(THRESHOLDS), float(true.sum()))
            found = _at_least(p[known])
            rows.append([_at_least(p[right]), found, _at_least(reach[true]), everything])
        return list(np.array(rows).reshape(-1, 4, len(THRESHOLDS)).transpose(1, 0, 2))

    return counts


def best_f(beta2: float) -> Callable[..., np.ndarray]:
    """The greatest F over thresholds, of [resample threshold] each; NaN where nothing is true."""

    def best(right: np.ndarray, found: np.ndarray, met: np.ndarray, true: np.ndarray) -> np.ndarray:
        P, R = np.nan_to_num(ratio(right, found)), ratio(met, true)
        F = np.where(P + R > 0, (1 + beta2) * P * R / np.maximum(beta2 * P + R, 1e-12), 0)
        return np.where(true[:, 0] > 0, F.max(1), np.nan)

    return best


def _metric(
    name: str, kind: str, higher: bool, top: float, counts: Counts, value: Callable[..., np.ndarray]
) -> Metric:
    def weighted(prediction: np.ndarray, target: np.ndarray, weights: np.ndarray) -> np.ndarray:
        return value(*(weights @ count for count in counts(prediction, target)))

    def score(prediction: np.ndarray, target: np.ndarray) -> float:
        return float(weighted(prediction, target, np.ones((1, len(target))))[0])

    return Metric(name, (kind,), higher, (0.0, top), score, weighted)


DENSE = {
    metric.name: metric
    for metric in (
        _metric("mean_iou", "segmentation", True, 1.0, overlaps, _iou),
        _metric("depth_rmse", "depth", False, np.inf, _squares, lambda s, n: np.sqrt(ratio(s, n))),
        _metric("angular_error", "normals", False, 180.0, _angles, ratio),
        _metric("ods_f", "edges", True, 1.0, found_and_true(True), best_f(1.0)),
        _metric("max_f", "saliency", True, 1.0, found_and_true(False), best_f(0.3)),
    )
}
