"""The report: one self-contained page that says which method is best for which task.

The page asks nothing of any other host: its style is inline and its plots are SVG inside it.
"""

import os
import re
import tempfile
from pathlib import Path
from typing import Any

from taskgrove.measuring.report_parts.answer import answer, gain_rows, tally, verdicts
from taskgrove.measuring.report_parts.balance import MOST_LINES, meetings
from taskgrove.measuring.report_parts.coefficients import coefficient_maps
from taskgrove.measuring.report_parts.curves import curve_lines
from taskgrove.measuring.report_parts.repeat import how_to_repeat, notes
from taskgrove.measuring.report_parts.tables import cost_table, score_table, task_facts
from taskgrove.measuring.report_parts.wording import cut, finite, mean, short

MOST_PANELS = 12
LONGEST = 48  # characters of a task's name; the table of tasks has all of them


def write_report(results: dict[str, Any], path: Path) -> None:
    """Write the page to `path`, which holds the old or the new page at any moment, never a part.

    The same results give the same bytes.
    """
    text = page(results)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, aside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
        os.chmod(aside, 0o644)
        os.replace(aside, path)
    except BaseException:
        Path(aside).unlink(missing_ok=True)
        raise


def page(results: dict[str, Any]) -> str:
    """The page as text."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    from taskgrove.measuring.report_parts.svg import looks, variable

    looked = looks(list(results["methods"]))
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["brief"] = lambda name: (
        name
        if len(name) <= LONGEST
        else Markup('<span title="{}">{}</span>').format(name, cut(name, LONGEST))
    )
    environment.filters["breakable"] = lambda name: Markup("<wbr>").join(
        re.split(r"(?<=[_./-])", name)
    )
    return environment.get_template("report.html.jinja").render(
        answer=answer(results),
        balance=balance_panels(results),
        colours={name: variable(colour) for name, (colour, _) in looked.items()},
        coefficients=coefficient_maps(results),
        cost=cost_table(results),
        cost_plots=[{**plot, "svg": Markup(plot["svg"])} for plot in cost_plots(results)],
        curves=curve_panels(results),
        facts=task_facts(results),
        forest=Markup(forest_plot(results)),
        notes=notes(results),
        repeat=how_to_repeat(results),
        scores=score_table(results),
        tally=tally(results),
        verdicts=verdicts(results),
    )


def forest_plot(results: dict[str, Any]) -> str:
    """The plot of delta-m, or nothing when no method has one."""
    from taskgrove.measuring.plots import forest
    from taskgrove.measuring.report_parts.svg import looks

    rows = gain_rows(results)
    return forest(rows, looks(list(results["methods"]))) if rows else ""


def curve_panels(results: dict[str, Any]) -> dict[str, Any]:
    """A panel per task; of many tasks those twelve on which the methods end furthest apart."""
    from markupsafe import Markup

    from taskgrove.measuring.plots import curves
    from taskgrove.measuring.report_parts.svg import looks

    lines, looked = curve_lines(results), looks(list(results["methods"]))

    def apart(task: str) -> float:
        ends = [y[-1] for _, y in lines[task].values()]
        return (max(ends) - min(ends)) / (max(map(abs, ends)) or 1.0)

    chosen = set(sorted(lines, key=lambda task: -apart(task))[:MOST_PANELS])
    panels = []
    for task in (task for task in lines if task in chosen):
        facts = results["tasks"][task]
        metric = facts.get("metric", "score")
        toward = "higher" if facts.get("higher_is_better", True) else "lower"
        svg = Markup(curves(lines[task], looked, f"{metric} of {task} over training passes"))
        panels.append({"task": task, "metric": metric, "toward": toward, "svg": svg})
    return {"panels": panels, "of": len(lines)}


def balance_panels(results: dict[str, Any]) -> dict[str, Any]:
    """Conflicts of all methods in one plot; a heat map and the weights' plot for each method."""
    from markupsafe import Markup

    from taskgrove.measuring.plots import curves
    from taskgrove.measuring.report_parts.heat_map import heat_map
    from taskgrove.measuring.report_parts.svg import looks

    rows, panels = meetings(results), list[dict[str, Any]]()
    tasks = looks(list(results["tasks"]))
    lines = {row["name"]: row["conflicts"] for row in rows if row["conflicts"]}
    if lines and any(len(row["tasks"]) > 1 for row in rows):
        svg = curves(lines, looks(list(results["methods"])), "pairs in conflict over passes")
        panels.append({"name": "", "words": "pairs in conflict, %", "svg": Markup(svg)})
    for row in (row for row in rows if len(row["tasks"]) > 1):
        svg = heat_map(row["tasks"], row["values"], f"mean cosines under {row['name']}")
        panels.append({"name": row["name"], "words": "mean cosine", "svg": Markup(svg)})
    for row in (row for row in rows if row["weights"]):
        svg = curves(row["weights"], tasks, f"weights under {row['name']} over training passes")
        some = f": the {MOST_LINES} of {row['of']} that move most" if row["of"] > MOST_LINES else ""
        panels.append({"name": row["name"], "words": f"weights{some}", "svg": Markup(svg)})
    shown = max((len(row["tasks"]) for row in rows), default=0)
    return {"rows": rows, "panels": panels, "shown": shown, "of": len(results["tasks"])}


def cost_plots(results: dict[str, Any]) -> list[dict[str, str]]:
    """Gain against each cost that differs between methods; a sentence for one that does not."""
    from taskgrove.measuring.plots import cost
    from taskgrove.measuring.report_parts.svg import looks

    looked, drawings = looks(list(results["methods"])), []
    for field, words in (
        ("passes", "training passes"),
        ("stored_parameters", "stored parameters"),
        ("train_seconds", "training seconds"),
    ):
        points = [
            {**row, "x": mean(results["methods"][row["name"]].get(field))}
            for row in gain_rows(results, reference=True)
        ]
        points = [point for point in points if finite(point["x"])]
        values = {round(point["x"], 6) for point in points}
        if len(values) > 1:
            drawings.append({"words": words, "svg": cost(points, looked, words), "same": ""})
        elif len(points) > 1:
            drawings.append({"words": words, "svg": "", "same": short(values.pop())})
    return drawings
