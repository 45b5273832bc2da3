"""Results in a terminal: a table of at most 100 columns and one sentence per method."""

from typing import TYPE_CHECKING, Any

from taskgrove.measuring.report_parts.wording import (
    SIGNS,
    UNDEFINED,
    best_of,
    count,
    cut,
    delta_m,
    mean,
    mean_test,
    percent,
    ranked,
    score,
    sentence,
    span,
    standing,
)

if TYPE_CHECKING:
    from rich.table import Table

MOST_TASKS = 8  # with more, a row per method and no column per task
COLOURS = {"better": "cyan", "worse": "yellow", "unclear": "", "reference": "dim"}


def verdict_lines(results: dict[str, Any]) -> list[str]:
    """One sentence per method, the best first and `single` last."""
    names = ranked(results)
    names = [name for name in names if name != "single"] + [n for n in names if n == "single"]
    lines = []
    for name in names:
        method = results["methods"][name]
        lines.append(f"{SIGNS[standing(name, method)]} {sentence(name, method)}")
    return lines


def results_table(results: dict[str, Any]) -> "Table":
    """A row per method: its test score on each of up to eight tasks, else its summary.

    A star marks the best mean of a task; the sign at delta-m says what its interval shows.
    """
    if len(results["tasks"]) <= MOST_TASKS:
        return _scores(results)
    return _summary(results)


def _scores(results: dict[str, Any]) -> "Table":
    tasks, names = list(results["tasks"]), ranked(results)
    few = len(tasks) <= 5
    room = min(18, 62 // max(1, len(tasks)) - 1)  # columns for a task: 6 or more
    table = _empty("mean test score by task; ★ best mean of a task")
    table.add_column("method", overflow="fold", max_width=18)
    columns = []
    for task in tasks:
        best = best_of(results, task)
        cells = [_score(mean_test(results, name, task), name in best, room) for name in names]
        widest = max(room, *map(len, cells))  # a name folds, a number does not
        header = _plain(cut(task, 3 * widest))
        table.add_column(header, justify="right", overflow="fold", max_width=widest)
        columns.append(cells)
    table.add_column("delta-m %", justify="right", max_width=9)
    if few:
        table.add_column("95 % interval", justify="right", max_width=16)
    for row, name in enumerate(names):
        method = results["methods"][name]
        interval = span(method.get("delta_m_interval"), percent) if few else ""
        cells = [_plain(cells[row]) for cells in columns]
        last = [_change(name, method), *([_plain(interval)] if few else [])]
        short = cut(name, 28) if few or len(name) <= 12 else cut(name, 28).replace("_", "_\n", 1)
        table.add_row(_plain(short), *cells, *last)
    return table


def _summary(results: dict[str, Any]) -> "Table":
    tasks = list(results["tasks"])
    table = _empty(f"{count(len(tasks))} tasks; best on: tasks where the mean test score is best")
    table.add_column("method", overflow="fold", max_width=20)
    for header in ("delta-m %", "95 % interval", "best on", "passes"):
        table.add_column(header, justify="right")
    wins = [name for task in tasks for name in best_of(results, task)]
    for name in ranked(results):
        method = results["methods"][name]
        table.add_row(
            _plain(cut(name, 40)),
            _change(name, method),
            _plain(span(method.get("delta_m_interval"), percent)),
            _plain(count(wins.count(name))),
            _plain(count(mean(method.get("passes")))),
        )
    return table


def _score(value: float, best: bool, room: int) -> str:
    gap = " " if room > 7 else ""
    text = f"{score(value)}{gap}{'★' if best else ' '}"
    return text if len(text) <= room else text.replace(f"{UNDEFINED}{gap} ", "undef.")


def _change(name: str, method: dict[str, Any]) -> Any:
    from rich.text import Text

    place = standing(name, method)
    text = percent(delta_m(method)) if name != "single" else "0.0"
    return Text(f"{SIGNS[place]} {text}", style=COLOURS.get(place, ""))


def _plain(text: str) -> Any:
    """Text that rich shows as it is: a name may hold square brackets."""
    from rich.text import Text

    return Text(text)


def _empty(caption: str) -> "Table":
    from rich import box
    from rich.table import Table

    return Table(box=box.SIMPLE_HEAD, caption=caption, caption_justify="left", padding=(0, 1, 0, 0))
