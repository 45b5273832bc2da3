"""The report and the console table: what a reader must find, for ordinary and for odd results."""

import copy
import itertools
import json
import math
import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskgrove.measuring.console import results_table, verdict_lines
from taskgrove.measuring.plots import label_places
from taskgrove.measuring.report import page, write_report
from taskgrove.measuring.report_parts import (
    answer,
    balance,
    coefficients,
    curves,
    svg,
    tables,
    wording,
)
from taskgrove.measuring.report_parts.repeat import how_to_repeat

GAINS = {"single": 0.0, "joint": 2.0, "pcgrad": 0.2, "task_arithmetic": -6.0}


def results(
    tasks: int = 3, seeds: int = 2, gains: Mapping[str, float] | None = None, curves: bool = True
) -> dict[str, Any]:
    """Results as compare writes them, with every optional field unless told otherwise."""
    names = [f"task{i}" for i in range(tasks)]
    facts = {
        name: {
            "kind": "number" if i == 1 else "classes",
            "metric": "mae" if i == 1 else "accuracy",
            "higher_is_better": i != 1,
            "classes": None if i == 1 else 10,
            "rows": {"train": 1200, "validation": 200, "test": 357},
        }
        for i, name in enumerate(names)
    }
    methods = {
        name: method(name, gain, facts, seeds, curves)
        for name, gain in (GAINS if gains is None else gains).items()
    }
    return {
        "format": 1,
        "created": "2025-01-02 03:04",
        "versions": {"taskgrove": "0.1.0", "torch": "2.6.0"},
        "machine": "2 cores, x86_64",
        "config": {"tasks": "pictures", "budget": {"steps": 600}, "seeds": list(range(seeds))},
        "tasks": facts,
        "methods": methods,
        "start": {
            "passes": 19200,
            "seconds": 6.1,
            "tasks": {name: {"test": [0.5]} for name in names},
        },
        "best": {"method": "joint", "seed": 0, "folder": "model"},
    }


def method(
    name: str, gain: float, facts: dict[str, Any], seeds: int, curves: bool
) -> dict[str, Any]:
    scores, lines = {}, []
    for task, fact in facts.items():
        sign = 1 if fact["higher_is_better"] else -1
        test = [0.8 * (1 + sign * gain / 100) + 0.001 * seed for seed in range(seeds)]
        scores[task] = {
            "validation": test,
            "test": test,
            "test_interval": [test[0] - 0.01, test[0] + 0.01],
        }
        for seed in range(seeds):
            points = [
                {"passes": 100 * k, "loss": 1 / k, "validation": test[seed] - 0.1 / k}
                for k in range(1, 6)
            ]
            lines.append({"seed": seed, "task": task, "points": points})
    return {
        "tasks": scores,
        "delta_m": [gain] * seeds,
        "delta_m_mean": gain,
        "delta_m_interval": [gain - 1, gain + 1],
        "verdict": "worse than separate models" if gain < -1 else "no difference shown",
        "sentence": f"{name}: a sentence about it",
        "trainable_parameters": 236976,
        "stored_parameters": 236976 * (len(facts) if name == "single" else 1),
        "train_seconds": [10.1] * seeds,
        "passes": [38400] * seeds,
        "inference_passes": 1.0,
        "notes": [f"a note on {name}"],
        **({"curves": lines} if curves else {}),
        **({"scales": {"scale": 0.3}} if name == "task_arithmetic" else {}),
    }


def drawings(text: str) -> list[ET.Element]:
    return [ET.fromstring(found) for found in re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL)]


def test_the_page_holds_every_task_method_number_and_source():
    text = page(results())
    for word in [*GAINS, "task0", "task1", "task2", "lower is better", "a note on pcgrad"]:
        assert word in text
    for word in ["1,200", "357", "236,976", "0.33 ×", "torch 2.6.0", "2 cores, x86_64", "steps"]:
        assert word in text
    assert "taskgrove compare --tasks pictures --methods single,joint" in text
    assert "joint, seed 0, in model/" in text
    assert "<b>0.3</b>" in text
    assert text.count("A sentence about it") == len(GAINS)


@pytest.mark.parametrize(
    ("gains", "word", "says"),
    [
        (GAINS, "Yes.", "joint is better than separate models: +2.0 % on average over 3 tasks"),
        ({"single": 0, "a": -3, "b": -4}, "No.", "Each of 2 methods is worse"),
        ({"single": 0, "a": -3}, "No.", "a is worse than separate models: −3.0 %"),
        ({"single": 0, "a": 0.5, "b": -4}, "Not shown.", "nearest is a: +0.5 %"),
        ({"single": 0, "a": 0.5}, "Not shown.", "a is not shown to differ"),
        ({"single": 0}, "Nothing to compare.", "No method has a gain"),
    ],
)
def test_the_answer_follows_the_intervals(gains: dict[str, float], word: str, says: str):
    found = answer.answer(results(gains=gains, curves=False))
    assert found["word"] == word
    assert says in found["text"]


def test_without_an_interval_nothing_is_called_better():
    data = results(gains={"single": 0, "joint": 50.0})
    data["methods"]["joint"]["delta_m_interval"] = None
    assert answer.answer(data)["word"] == "Not shown."
    assert "without an interval" in page(data)


def test_a_cell_is_read_without_colour_and_colour_follows_the_sign():
    rows = tables.score_table(results(curves=False))["rows"]
    single, joint, pcgrad, arithmetic = rows[0]["cells"]
    assert (single["gain"], single["colour"]) == ("", "reference")
    assert (joint["gain"], joint["colour"], joint["best"]) == ("▲ +2.0 %", "better2", True)
    assert (pcgrad["gain"], pcgrad["colour"]) == ("△ +0.2 %", "better1")
    assert (arithmetic["gain"], arithmetic["colour"]) == ("▼ −6.0 %", "worse3")
    lower_is_better = rows[1]["cells"][1]
    assert lower_is_better["gain"].startswith("▲")
    assert float(lower_is_better["score"]) < 0.8


def test_ties_are_all_best_and_lower_is_better_is_heeded():
    data = results(gains={"single": 0, "a": 0, "b": -5}, curves=False)
    assert wording.best_of(data, "task0") == ["single", "a"]
    assert wording.best_of(data, "task1") == ["single", "a"]


def test_names_are_escaped_everywhere():
    evil, maths, wide = "<script>alert(1)</script>", "$\\frac{a$ & [bold]", "日本語 \x1b_x"
    data = results(gains={"single": 0, evil: 1.5, maths: -2})
    data["tasks"] = dict(zip([evil, maths, wide], data["tasks"].values(), strict=True))
    for found in data["methods"].values():
        found["tasks"] = dict(zip(data["tasks"], found["tasks"].values(), strict=True))
        for line, task in zip(found["curves"], [evil, evil, maths, maths, wide, wide], strict=True):
            line["task"] = task
    data["methods"][evil]["notes"] = [evil]
    data["config"]["tasks"] = evil
    text = page(data)
    assert "<script>alert" not in text
    assert text.count("<script>") == 1
    assert "&lt;script&gt;alert(1)" in text
    assert all(drawing.tag == "svg" for drawing in drawings(text))
    assert "日本語" in text


def test_the_page_asks_nothing_of_another_host():
    text = page(results())
    assert "://" not in text
    assert not re.search(r"\bsrc=|@import|<link|<iframe", text)
    assert set(re.findall(r'href="(.)', text)) <= {"#"}
    assert set(re.findall(r"url\((.)", text)) <= {"#"}


def test_drawings_are_xml_with_text_and_the_page_s_colours():
    text = page(results())
    found = drawings(text)
    assert (
        len(found) == 1 + 3 + 1
    )  # forest, a panel per task, stored parameters; the rest are equal
    assert "Every method used 38k training passes" in text
    for drawing in found:
        assert drawing.get("aria-label")
        assert "joint" in "".join(drawing.itertext())
        assert "var(--hue0)" in ET.tostring(drawing, encoding="unicode")
    assert not re.search(r": #0[0-9]0[0-9]0[0-9]\b", text)  # no stand-in colour is left


def test_undefined_is_written_for_what_has_no_number():
    data = results()
    data["methods"]["joint"]["tasks"]["task0"]["test"] = [math.nan, None]
    data["methods"]["joint"]["tasks"]["task0"]["test_interval"] = [math.nan, math.nan]
    data["methods"]["joint"]["tasks"]["task1"]["test"] = [0.75, math.nan]
    data["methods"]["pcgrad"]["delta_m"] = [math.nan, math.nan]
    data["methods"]["pcgrad"]["delta_m_mean"] = math.nan
    data["methods"]["pcgrad"]["delta_m_interval"] = [math.nan, math.nan]
    data["methods"]["pcgrad"]["curves"][0]["points"][2]["validation"] = math.nan
    data["methods"]["pcgrad"]["train_seconds"] = None
    text = page(data)
    assert "undefined" in text
    assert "1 of 2 seeds" in text
    assert not re.search(r"\b(nan|NaN|None|inf)\b", text)
    assert tables.score_table(data)["rows"][0]["cells"][1]["best"] is False


@pytest.mark.parametrize("field", ["curves", "notes", "scales", "sentence", "passes", "delta_m"])
def test_a_method_s_optional_fields_may_be_missing(field: str):
    data = results(tasks=1, seeds=1)
    for found in data["methods"].values():
        found.pop(field, None)
        for scores in found["tasks"].values():
            scores.pop("test_interval", None)
    assert "task0" in page(data)


def test_the_least_results_make_a_page():
    least = {"tasks": {"t": {}}, "methods": {"joint": {"tasks": {"t": {"test": [0.5]}}}}}
    text = page(least)
    assert "Nothing to compare." in text
    assert "0.500" in text
    assert "<figure" not in text
    page({"tasks": {"t": {}}, "methods": {"joint": {}, "single": {}}, "start": None, "best": None})


@pytest.mark.parametrize(("tasks", "shown"), [(12, 12), (50, 12)])
def test_many_tasks_show_the_curves_that_end_furthest_apart(tasks: int, shown: int):
    data = results(tasks=tasks, gains={"single": 0, "a": 1})
    for line in data["methods"]["a"]["curves"]:
        if line["task"] == f"task{tasks - 1}":
            line["points"][-1]["validation"] = 0.1
    text = page(data)
    panels = re.findall(r"<figcaption><b>(.*?)</b>", text)
    assert len(panels) == shown
    assert f"task{tasks - 1}" in panels
    assert (f"{shown} of {tasks} tasks" in text) == (tasks > shown)


def test_a_long_name_is_cut_where_it_recurs_and_whole_where_tasks_are_listed():
    data = results(tasks=1, gains={"single": 0, "a": 1}, curves=False)
    name = "long_" * 40
    data["tasks"] = {name: data["tasks"]["task0"]}
    for found in data["methods"].values():
        found["tasks"] = {name: found["tasks"]["task0"]}
    text = page(data)
    assert f'<span title="{name}">' in text
    assert f">{name}<" in text


def test_a_method_far_beyond_the_rest_is_shown_at_the_edge_with_its_value():
    gains = {"single": 0, "a": 1, "b": 2, "c": -1, "broken": -80}
    forest, *costs = drawings(page(results(tasks=2, gains=gains, curves=False)))
    assert "−80.0 %" in "".join(forest.itertext())
    assert "−60" not in "".join(forest.itertext())
    assert "broken −80.0" in "".join(costs[0].itertext())


def test_the_same_results_give_the_same_bytes_through_json(tmp_path: Path):
    data = results()
    before = copy.deepcopy(data)
    write_report(data, tmp_path / "a" / "report.html")
    write_report(json.loads(json.dumps(data)), tmp_path / "b" / "report.html")
    assert data == before
    one, other = (tmp_path / name / "report.html" for name in "ab")
    assert one.read_bytes() == other.read_bytes()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["report.html"]


def test_a_failed_write_leaves_the_old_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "report.html"
    path.write_text("old")

    def refuse(*_: object) -> None:
        raise OSError("no space")

    monkeypatch.setattr("os.replace", refuse)
    with pytest.raises(OSError, match="no space"):
        write_report({"tasks": {}, "methods": {}}, path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_user_s_matplotlib_settings_neither_matter_nor_change():
    import matplotlib

    data = results(tasks=1, curves=False)
    expected = page(data)
    with matplotlib.rc_context({"lines.linewidth": 9, "font.size": 30, "svg.fonttype": "path"}):
        assert page(data) == expected
        assert matplotlib.rcParams["lines.linewidth"] == 9


def test_a_coefficient_map_shows_values_and_says_what_it_leaves_out():
    tensors = [f"layer{i}.weight" for i in range(80)]
    values = [[0.1 * (i % 7 + 1) * task for i in range(80)] for task in range(2)]
    values[1][79] = 9.0
    data = results(tasks=2, curves=False)
    data["methods"]["joint"]["coefficients"] = {
        "tasks": ["task0", "task1"], "tensors": tensors, "values": values,
    }  # fmt: skip
    rows = coefficients.coefficient_maps(data)["maps"][0]["rows"]
    assert len(rows) == 60
    assert rows[-1] == {"tensor": "layer79.weight", "cells": [("0.000", 0), ("9.000", 6)]}
    assert "60 of 80 tensors" in page(data)


def met(data: dict[str, Any], name: str, tasks: list[str], cosine: float = -0.5) -> None:
    """Gives a method two seeds of three looks at the gradients of `tasks`."""
    several = range(len(tasks))
    values = [[1.0 if i == j else cosine for i in several] for j in several]
    values[-1][0] = values[0][-1] = None
    data["methods"][name]["balance"] = [
        {
            "seed": seed,
            "points": [
                {
                    "passes": 100 * look,
                    "cosines": {"tasks": tasks, "values": values},
                    "conflicts": 0.1 * look + 0.1 * seed,
                    "weights": {task: 1 + look * n / 10 for n, task in enumerate(tasks)},
                    "fallbacks": look,
                }
                for look in (1, 2, 3)
            ],
        }
        for seed in (0, 1)
    ]


def test_how_gradients_met_is_told_per_method():
    data = results()
    assert "gradients met" not in page(data)
    met(data, "pcgrad", ["task0", "task1", "task2"])
    data["methods"]["pcgrad"]["balance"][1]["points"][2]["cosines"] = {
        "tasks": ["task2", "task1"], "values": [[1.0, 0.1], [0.1, 1.0]],
    }  # fmt: skip
    row = balance.meetings(data)[0]
    assert row["tasks"] == ["task0", "task1", "task2"]
    assert row["values"][0][1] == -0.5
    assert row["values"][1][2] == pytest.approx((5 * -0.5 + 0.1) / 6)
    assert math.isnan(row["values"][0][2])
    assert row["conflicts"][0] == [100, 200, 300]
    assert row["conflicts"][1] == pytest.approx([15, 25, 35])
    assert row["weights"]["task2"][1] == pytest.approx([1.2, 1.4, 1.6])
    for run in data["methods"]["pcgrad"]["balance"]:
        del run["points"][0]["weights"]  # as where all were 1
    assert balance.meetings(data)[0]["weights"]["task2"][1] == pytest.approx([1.0, 1.4, 1.6])
    met(data, "pcgrad", ["task0", "task1", "task2"])
    assert (row["share"], row["fallbacks"]) == ("25.0", 12)
    assert row["apart"] == {"tasks": ("task0", "task1"), "cosine": "−0.50"}
    assert (row["most"], row["least"]) == (
        {"task": "task2", "weight": "1.40"},
        {"task": "task0", "weight": "1.00"},
    )
    text = page(data)
    assert "How the tasks’ gradients met" in text
    shown = [drawing for drawing in drawings(text) if "pcgrad" in (drawing.get("aria-label") or "")]
    assert [drawing.get("aria-label") for drawing in shown] == [
        "mean cosines under pcgrad",
        "weights under pcgrad over training passes",
    ]
    assert "−0.50" in "".join(shown[0].itertext())
    assert "var(--worse3)" in ET.tostring(shown[0], encoding="unicode")
    assert not re.search(r": #0[0-9]0[0-9]0[0-9]\b|#0600", text)


def test_weights_alone_and_a_pair_that_never_met_make_a_page():
    data = results(tasks=2)
    met(data, "joint", ["task0", "task1"])
    for run in data["methods"]["joint"]["balance"]:
        for point in run["points"]:
            point.update(conflicts=None)
    met(data, "pcgrad", ["task0", "task1"])
    for run in data["methods"]["pcgrad"]["balance"]:
        for point in run["points"]:
            del point["cosines"], point["conflicts"]
    joint, pcgrad = balance.meetings(data)
    assert (joint["apart"], joint["share"], joint["conflicts"]) == (None, "", None)
    assert (pcgrad["tasks"], pcgrad["apart"]) == ([], None)
    text = page(json.loads(json.dumps(data)))
    assert "mean cosines under joint" in text
    assert "mean cosines under pcgrad" not in text
    assert not re.search(r"\b(nan|NaN|None)\b", text)


def test_many_tasks_show_32_cosines_and_the_weights_that_move_most():
    data = results(tasks=200, gains={"single": 0, "joint": 1}, curves=False)
    names = list(data["tasks"])
    met(data, "joint", names[:32])
    for run in data["methods"]["joint"]["balance"]:
        for point in run["points"]:
            point["weights"] = {task: 1.0 + 1e-4 * n for n, task in enumerate(names)}
    row = balance.meetings(data)[0]
    assert list(row["weights"]) == names[-8:]
    text = page(data)
    assert "Cosines are of the first 32 of 200 tasks" in text
    assert "weights: the 8 of 200 that move most" in text
    cosines = next(d for d in drawings(text) if d.get("aria-label") == "mean cosines under joint")
    assert len(ET.tostring(cosines)) < 200_000


def test_a_command_that_the_results_hold_is_shown_as_it_is():
    data = results(tasks=1)
    assert how_to_repeat({**data, "command": ["taskgrove", "a b"]})["command"] == "taskgrove 'a b'"
    assert how_to_repeat({**data, "command": "make it"})["command"] == "make it"


def test_a_mean_curve_is_the_mean_where_all_seeds_have_points():
    data = results(tasks=1, gains={"joint": 1.0})
    ends = ([(0, 0.0), (100, 1.0)], [(50, 1.0), (100, 2.0), (200, 5.0)])
    for line, points in zip(data["methods"]["joint"]["curves"], ends, strict=True):
        line["points"] = [{"passes": x, "validation": y} for x, y in points]
    assert curves.curve_lines(data)["task0"]["joint"] == ([50.0, 100.0], [0.75, 1.5])


def test_methods_keep_their_colours_and_differ_by_dash_when_colours_run_out():
    found = svg.looks([f"m{i}" for i in range(20)] + ["single"])
    assert len(set(map(str, found.values()))) == 21
    assert found["single"] == (svg.INK, "-")
    assert svg.looks(["single", "m0", "m1"])["m1"] == found["m1"]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_spread_labels_keep_order_distance_and_bounds(values: list[float]):
    from taskgrove.measuring.plots import spread

    placed = spread(sorted(values), 0.1, 0.0, 1.0)
    assert all(b - a > 0.1 - 1e-9 for a, b in itertools.pairwise(placed))
    assert placed[0] > -1e-9
    assert placed[-1] < 1 + 1e-9


def test_labels_of_dots_at_one_place_do_not_cover_each_other():
    import numpy as np

    places = label_places(np.full((4, 2), 150.0), ["joint"] * 4, (380, 270), 30.0)
    assert len(set(places)) == 4


def rendered(data: dict[str, Any]) -> str:
    from rich.console import Console

    console = Console(width=100, record=True, file=open("/dev/null", "w"), color_system=None)  # noqa: SIM115
    console.print(results_table(data))
    console.file.close()
    return console.export_text()


@pytest.mark.parametrize("tasks", [1, 3, 5, 8])
def test_the_console_table_has_a_column_per_task_within_100_columns(tasks: int):
    data = results(tasks=tasks, curves=False)
    text = rendered(data)
    for word in [*data["tasks"], "▲ +2.0", "▼ −6.0", "≈ +0.2", "★"]:
        assert word in text
    for name in GAINS:
        assert all(part in text for part in name.split("_"))
    assert ("+1.0 to +3.0" in text) == (tasks <= 5)
    assert "0.000" not in text
    assert max(map(len, text.splitlines())) <= 100


def test_the_console_table_sums_up_many_tasks():
    text = rendered(results(tasks=9, curves=False))
    for word in [*GAINS, "+1.0 to +3.0", "38,400", "▲ +2.0", "▼ −6.0"]:
        assert word in text
    assert "task8" not in text


def test_the_console_shows_brackets_and_undefined():
    data = results(tasks=1, gains={"single": 0, "[red]x": 1.0}, curves=False)
    data["methods"]["[red]x"]["tasks"]["task0"]["test"] = [math.nan]
    text = rendered(data)
    assert "[red]x" in text
    assert "undefined" in text
    assert "nan" not in text


def test_verdict_lines_put_the_best_first_and_single_last():
    lines = verdict_lines(results(curves=False))
    assert lines[0] == "▲ joint: a sentence about it"
    assert [line.split(":")[0] for line in lines] == [
        "▲ joint", "≈ pcgrad", "▼ task_arithmetic", "● single",
    ]  # fmt: skip


def test_a_curve_of_one_point_at_the_start_is_drawn():
    data = results(tasks=1, gains={"joint": 1.0})
    for line in data["methods"]["joint"]["curves"]:
        line["points"] = [{"passes": 0, "validation": 0.5}]
    assert len(drawings(page(data))) == 2  # forest and curve
