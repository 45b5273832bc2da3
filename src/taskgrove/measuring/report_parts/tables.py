"""The tables of scores, costs and tasks, as plain data."""

import re
from typing import Any

from taskgrove.measuring.report_parts.wording import (
    REFERENCE,
    SIGNS,
    UNDEFINED,
    best_of,
    count,
    delta_m,
    finite,
    gain,
    mean,
    mean_test,
    percent,
    ranked,
    score,
    span,
    standing,
)

SPLITS = ("train", "validation", "test")
Results = dict[str, Any]


def score_table(results: Results) -> dict[str, Any]:
    """A row per task and a column per method, each cell told against `single`."""
    columns = []
    for name in ranked(results):
        method = results["methods"][name]
        kind = standing(name, method)
        delta = "0.0" if name == REFERENCE else percent(delta_m(method))
        interval = span(method.get("delta_m_interval"), percent) if name != REFERENCE else ""
        columns.append(
            {"name": name, "sign": SIGNS[kind], "kind": kind, "delta": delta, "interval": interval}
            | {"wide": min(18, 2 + max(map(len, re.split(r"[\s_./-]", name))))}
        )
    start = (results.get("start") or {}).get("tasks") or {}
    rows = []
    for task, facts in results["tasks"].items():
        toward = "higher" if facts.get("higher_is_better", True) else "lower"
        cells = [_cell(results, task, column["name"]) for column in columns]
        first = score(mean(start.get(task, {}).get("test"))) if start else ""
        row = {"task": task, "metric": facts.get("metric", "score"), "toward": toward}
        rows.append({**row, "cells": cells, "start": first})
    compared = REFERENCE in results["methods"] and len(columns) > 1
    return {"columns": columns, "rows": rows, "start": bool(start), "compared": compared}


def _cell(results: Results, task: str, name: str) -> dict[str, Any]:
    scores = results["methods"][name].get("tasks", {}).get(task, {})
    tests = scores.get("test") or []
    tests = tests if isinstance(tests, list) else [tests]
    value, reference = mean(tests), mean_test(results, REFERENCE, task)
    change = gain(value, reference, results["tasks"][task].get("higher_is_better", True))
    ends = finite(scores.get("test_interval"))
    inside = len(ends) == 2 and ends[0] <= reference <= ends[1]
    known = len(finite(tests))
    cell = {"score": score(value), "interval": span(ends), "best": name in best_of(results, task)}
    cell["note"] = f"{known} of {len(tests)} seeds" if 0 < known < len(tests) else ""
    cell["order"] = change if finite(change) else -1e9
    if name == REFERENCE or not finite(change):
        return {**cell, "gain": "", "colour": "reference" if name == REFERENCE else ""}
    size = sum(abs(change) >= edge for edge in (0.05, 1, 3, 10))
    sign = "=" if size == 0 else ("△" if change > 0 else "▽") if inside else "▲▼"[change < 0]
    colour = ("worse", "better")[change > 0] + str(1 if inside else size)
    return {**cell, "gain": f"{sign} {percent(change)} %", "colour": colour if size else "equal"}


def cost_table(results: Results) -> list[dict[str, str]]:
    """What each method costs to train, to store and to run, beside its gain."""
    stored = mean(results["methods"].get(REFERENCE, {}).get("stored_parameters"))
    rows = []
    for column in score_table({**results, "tasks": {}})["columns"]:
        name = column["name"]
        method = results["methods"][name]
        own = mean(method.get("stored_parameters"))
        share = f"{own / stored:.2f} ×" if finite(own) and stored > 0 else ""
        per_example = mean(method.get("inference_passes"))
        seconds = mean(method.get("train_seconds"))
        rows.append(
            {
                **column,
                "trainable": count(mean(method.get("trainable_parameters"))),
                "stored": count(own),
                "own": count(mean(method.get("own_parameters"))),
                "share": share if name != REFERENCE else "",
                "passes": count(mean(method.get("passes"))),
                "seconds": f"{seconds:,.1f}" if finite(seconds) else UNDEFINED,
                "inference": f"{per_example:.3g}" if finite(per_example) else UNDEFINED,
            }
        )
    return rows


def task_facts(results: Results) -> list[dict[str, str]]:
    """What each task predicts, how it is scored and on how many rows."""
    rows = []
    for task, facts in results["tasks"].items():
        classes = facts.get("classes")
        kind = str(facts.get("kind", ""))
        kind = {"classes": "one class", "labels": "any of several labels"}.get(kind, kind)
        toward = "higher is better" if facts.get("higher_is_better", True) else "lower is better"
        split = facts.get("rows") or {}
        row = {"task": task, "kind": kind, "metric": str(facts.get("metric", "")), "toward": toward}
        row |= {name: count(split[name]) if name in split else "" for name in SPLITS}
        rows.append({**row, "classes": count(classes) if classes else ""})
    return rows
