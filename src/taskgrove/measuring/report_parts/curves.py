"""Learning curves, averaged over seeds."""

from typing import Any

import numpy as np

from taskgrove.measuring.report_parts.wording import (
    finite,
)

Results = dict[str, Any]


def curve_lines(results: Results) -> dict[str, dict[str, tuple[list[float], list[float]]]]:
    """Per task and method the mean validation curve of its seeds, where all of them have points."""
    found: dict[str, dict[str, tuple[list[float], list[float]]]] = {}
    for task in results["tasks"]:
        for name, method in results["methods"].items():
            curves = [c["points"] for c in method.get("curves") or [] if c["task"] == task]
            line = mean_curve([p for p in map(_known, curves) if len(p)])
            if line:
                found.setdefault(task, {})[name] = line
    return found


def _known(points: list[dict[str, Any]]) -> np.ndarray:
    pairs = [(p.get("passes"), p.get("validation")) for p in points]
    kept = [(x, y) for x, y in pairs if finite(x) and finite(y)]
    return np.array(sorted(kept), dtype=float).reshape(-1, 2)  # [point 2]


def mean_curve(curves: list[np.ndarray]) -> tuple[list[float], list[float]] | None:
    """The mean of curves [point 2] over the stretch where all of them have points."""
    if not curves:
        return None
    low, high = max(c[0, 0] for c in curves), min(c[-1, 0] for c in curves)
    x = np.unique(np.concatenate([c[:, 0] for c in curves]))
    x = x[(x >= low) & (x <= high)]
    if not len(x):  # seeds without a common stretch: the longest speaks
        return mean_curve([max(curves, key=len)])
    y = np.mean([np.interp(x, c[:, 0], c[:, 1]) for c in curves], axis=0)
    return x.tolist(), y.tolist()
