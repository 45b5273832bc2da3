"""Scales and coefficients that methods chose, as plain data."""

from typing import Any

import numpy as np

from taskgrove.measuring.report_parts.wording import (
    UNDEFINED,
    finite,
    minus,
    score,
)

MOST_TENSORS = 60
LEVELS = 7  # colours of a coefficient map
Results = dict[str, Any]


def coefficient_maps(results: Results) -> dict[str, list[dict[str, Any]]]:
    """Chosen scales by method, and coefficients per tensor and task as coloured tables."""
    scales, maps = [], []
    for name, method in results["methods"].items():
        if method.get("scales"):
            items = [(str(key), _scale(value)) for key, value in method["scales"].items()]
            scales.append({"name": name, "items": items})
        if method.get("coefficients"):
            maps.append({"name": name, **_map(method["coefficients"])})
    return {"scales": scales, "maps": maps}


def _scale(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(_scale, value))
    if isinstance(value, dict):
        return ", ".join(f"{key} {_scale(inner)}" for key, inner in value.items())
    if isinstance(value, float) or value is None:
        return minus(f"{value:.4g}") if finite(value) else UNDEFINED
    return str(value)


def _map(coefficients: dict[str, Any]) -> dict[str, Any]:
    tasks, tensors = list(coefficients["tasks"]), list(coefficients["tensors"])
    values = np.array(coefficients["values"], dtype=float)  # [task tensor]
    if values.shape != (len(tasks), len(tensors)):
        values = values.T
    known = values[np.isfinite(values)]
    low, high = (known.min(), known.max()) if known.size else (0.0, 0.0)
    level = np.nan_to_num((values - low) / (high - low or 1.0) * (LEVELS - 1)).round().astype(int)
    apart = np.nan_to_num(np.ptp(values, axis=0)) if len(tasks) else np.zeros(len(tensors))
    chosen = np.sort(np.argsort(-apart, kind="stable")[:MOST_TENSORS])
    rows = [
        {
            "tensor": tensors[j],
            "cells": [(score(float(values[i, j])), int(level[i, j])) for i in range(len(tasks))],
        }
        for j in chosen.tolist()
    ]
    return {"tasks": tasks, "rows": rows, "of": len(tensors)}
