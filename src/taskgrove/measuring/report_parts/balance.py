"""How the tasks' gradients met under each method, and what weights they got, as plain data.

`methods.M.balance` of the results holds points a seed, one a look (see training/diagnostics).
Means are over looks, then over seeds.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from taskgrove.measuring.report_parts.curves import mean_curve
from taskgrove.measuring.report_parts.wording import finite, mean, minus

MOST_LINES = 8  # weights in one plot
Results = dict[str, Any]
Point = dict[str, Any]
Line = tuple[list[float], list[float]]


def meetings(results: Results) -> list[dict[str, Any]]:
    """A row per method that has something to tell: matrix, lines, and what stands out in them."""
    rows = []
    for name, method in results["methods"].items():
        seeds = [run["points"] for run in method.get("balance") or [] if run.get("points")]
        if seeds:
            rows.append({"name": name, **_row(seeds, list(results["tasks"]))})
    return rows


def _row(seeds: list[list[Point]], names: list[str]) -> dict[str, Any]:
    tasks, values = _matrix(seeds, names)
    conflicts = _line(seeds, lambda point: point.get("conflicts"))
    weights = _weights(seeds, names)
    if conflicts is not None:
        conflicts = conflicts[0], [100 * share for share in conflicts[1]]
    shares = [mean([point.get("conflicts") for point in points]) for points in seeds]
    travel = sorted(weights, key=lambda task: -max(abs(w - 1) for w in weights[task][1]))
    return {
        "tasks": tasks,
        "values": values.tolist(),
        "conflicts": conflicts,
        "weights": {task: weights[task] for task in weights if task in travel[:MOST_LINES]},
        "of": len(weights),
        "share": f"{100 * mean(shares):.1f}" if finite(mean(shares)) else "",
        "apart": _apart(tasks, values),
        **_ends(weights),
        "fallbacks": sum(point.get("fallbacks", 0) for points in seeds for point in points),
    }


def _weights(seeds: list[list[Point]], names: list[str]) -> dict[str, Line]:
    """A line a task; a look without weights is one at which all were 1."""
    if not any("weights" in point for points in seeds for point in points):
        return {}
    found = {}
    for task in names:
        ones = {task: 1.0}
        line = _line(
            seeds, lambda point, task=task, ones=ones: point.get("weights", ones).get(task)
        )
        if line is not None:
            found[task] = line
    return found


def _line(seeds: list[list[Point]], value: Callable[[Point], Any]) -> Line | None:
    """A number over passes, the mean of the seeds."""
    curves = []
    for points in seeds:
        pairs = [(point["passes"], value(point)) for point in points]
        kept = [pair for pair in pairs if finite(pair[1])]
        if kept:
            curves.append(np.array(kept, dtype=float))  # [point 2]
    return mean_curve(curves)


def _matrix(seeds: list[list[Point]], names: list[str]) -> tuple[list[str], np.ndarray]:
    """The mean cosine of each pair that met, NaN for the others."""
    found = [point["cosines"] for points in seeds for point in points if point.get("cosines")]
    met = {task for cosines in found for task in cosines["tasks"]}
    tasks = [task for task in names if task in met]
    place = {task: number for number, task in enumerate(tasks)}
    total, count = np.zeros((2, len(tasks), len(tasks)))
    for cosines in found:
        at = [place[task] for task in cosines["tasks"] if task in place]
        values = np.array(cosines["values"], dtype=float)
        known = np.isfinite(values)
        total[np.ix_(at, at)] += np.where(known, values, 0)
        count[np.ix_(at, at)] += known
    return tasks, np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _apart(tasks: list[str], values: np.ndarray) -> dict[str, Any] | None:
    """The pair with the lowest cosine."""
    pairs = [(values[i, j], tasks[i], tasks[j]) for i in range(len(tasks)) for j in range(i)]
    known = [pair for pair in pairs if finite(float(pair[0]))]
    if not known:
        return None
    cosine, later, first = min(known)
    return {"tasks": (first, later), "cosine": minus(f"{cosine:.2f}")}


def _ends(weights: dict[str, Line]) -> dict[str, Any]:
    """The tasks that weigh most and least, on average over the looks."""
    means = {task: float(np.mean(y)) for task, (_, y) in weights.items()}
    if not means:
        return {"most": None, "least": None}
    most, least = max(means, key=lambda t: means[t]), min(means, key=lambda t: means[t])
    return {
        "most": {"task": most, "weight": minus(f"{means[most]:.2f}")},
        "least": {"task": least, "weight": minus(f"{means[least]:.2f}")},
    }
