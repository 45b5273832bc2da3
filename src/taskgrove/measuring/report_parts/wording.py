"""How results are read and numbers written, the same for the report and the console.

`results` is the content of results.json: `methods.<name>.tasks.<task>.test` holds one score per
seed, `delta_m` the mean gain over `single` in percent, also one per seed, with a 95 % interval of
its mean. A score that is not finite or not there is written "undefined", never as a number.
"""

import math
from collections.abc import Iterable
from typing import Any

REFERENCE = "single"
UNDEFINED = "undefined"
SIGNS = {"better": "▲", "worse": "▼", "unclear": "≈", "reference": "●", "unmeasured": "–"}
PHRASES = {
    "better": "better than separate models",
    "worse": "worse than separate models",
    "unclear": "no difference shown",
    "reference": "separate models, the reference",
    "unmeasured": "not measured against separate models",
}


def finite(values: Any) -> list[float]:
    """The finite numbers among one number, a list of them, or nothing.

    >>> finite([1, None, float("nan")]), finite(2.5), finite(None)
    ([1.0], [2.5], [])
    """
    values = values if isinstance(values, list | tuple) else [values]
    return [float(x) for x in values if x is not None and math.isfinite(x)]


def mean(values: Any) -> float:
    """The mean of the finite numbers; not a number if there is none.

    >>> mean([1, 2, None]), mean([])
    (1.5, nan)
    """
    kept = finite(values)
    return math.fsum(kept) / len(kept) if kept else math.nan


def score(value: float | None) -> str:
    """A score with three decimals, fewer when it is large.

    >>> score(0.91551), score(-1234.56), score(float("nan"))
    ('0.916', '−1,235', 'undefined')
    """
    if not finite(value):
        return UNDEFINED
    digits = 3 if abs(value) < 10 else 1 if abs(value) < 1000 else 0  # pyright: ignore
    return minus(f"{value:,.{digits}f}")


def percent(value: float | None) -> str:
    """A difference in percent with its sign; the unit stands in the caption or header.

    >>> percent(1.26), percent(-0.31), percent(0.02), percent(None)
    ('+1.3', '−0.3', '0.0', 'undefined')
    """
    if value is None or not finite(value):
        return UNDEFINED
    rounded = round(value, 1)
    return minus(f"{rounded:+,.1f}") if rounded else "0.0"


def span(interval: Any, write: Any = score) -> str:
    """An interval in words, or nothing when either end is missing.

    >>> span([-0.3, 2.2], percent), span([0.88, None]), span(None)
    ('−0.3 to +2.2', '', '')
    """
    ends = finite(interval)
    return f"{write(ends[0])} to {write(ends[1])}" if len(ends) == 2 else ""


def count(value: float | None) -> str:
    """A whole number in groups of three digits.

    >>> count(236976), count(None)
    ('236,976', 'undefined')
    """
    return f"{value:,.0f}" if value is not None and finite(value) else UNDEFINED


def short(value: float) -> str:
    """A large number for an axis.

    >>> [short(x) for x in (0, 950, 19200, 236976, 1.5e6)]
    ['0', '950', '19k', '237k', '1.5M']
    """
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            digits = 1 if abs(value) < 10 * size and value % size else 0
            return minus(f"{value / size:.{digits}f}{unit}")
    return minus(f"{value:g}")


def minus(text: str) -> str:
    """The text with a true minus sign, which is as wide as the plus."""
    return text.replace("-", "−")


def cut(name: str, most: int) -> str:
    """A long name cut in the middle, where names that differ usually agree.

    >>> cut("a_very_long_name_of_a_task_7", 12)
    'a_very…ask_7'
    """
    name = " ".join("".join(c if c.isprintable() else " " for c in str(name)).split())
    return name if len(name) <= most else f"{name[: most // 2]}…{name[-(most - 1 - most // 2) :]}"


def listing(words: Iterable[str]) -> str:
    """Words joined for a sentence.

    >>> listing(["a", "b", "c"])
    'a, b and c'
    """
    words = list(words)
    return f"{', '.join(words[:-1])} and {words[-1]}" if len(words) > 1 else "".join(words)


def gain(value: float, reference: float, higher_is_better: bool) -> float:
    """100 sign (value - reference) / reference, in percent; undefined for a reference not above 0.

    >>> gain(0.99, 0.9, True), gain(2.2, 2.0, False)
    (10.0, -10.0)
    """
    if not (math.isfinite(value) and math.isfinite(reference)) or reference <= 0:
        return math.nan
    sign = 1 if higher_is_better else -1
    return round(100 * sign * (value - reference) / reference, 9)


def delta_m(method: dict[str, Any]) -> float:
    """The mean delta-m of a method, from its own field or from its seeds."""
    return mean(method.get("delta_m_mean", method.get("delta_m")))


def standing(name: str, method: dict[str, Any]) -> str:
    """better, worse or unclear against `single`, by the interval of delta-m; or why neither."""
    ends = finite(method.get("delta_m_interval"))
    if name == REFERENCE:
        return "reference"
    if not finite(delta_m(method)):
        return "unmeasured"
    if len(ends) == 2 and ends[0] > 0:
        return "better"
    return "worse" if len(ends) == 2 and ends[1] < 0 else "unclear"


def sentence(name: str, method: dict[str, Any]) -> str:
    """The verdict on a method: the sentence of the results, or one from its numbers."""
    if method.get("sentence"):
        said = str(method["sentence"])
        return said if said.startswith(name) else f"{name}: {said}"
    verdict = method.get("verdict") or PHRASES[standing(name, method)]
    if name == REFERENCE or not finite(delta_m(method)):
        return f"{name}: {verdict}."
    interval = span(method.get("delta_m_interval"), percent)
    within = f"95 % interval {interval}" if interval else "one run, no interval"
    return f"{name}: {verdict} (delta-m {percent(delta_m(method))} %, {within})."


def ranked(results: dict[str, Any]) -> list[str]:
    """Method names: `single` first, then by delta-m from best to worst, the unmeasured last."""
    methods = results["methods"]

    def place(name: str) -> tuple[bool, bool, float]:
        value = delta_m(methods[name])
        return name != REFERENCE, math.isnan(value), 0.0 if math.isnan(value) else -value

    return sorted(methods, key=place)


def mean_test(results: dict[str, Any], method: str, task: str) -> float:
    """The mean test score of a method on a task over its seeds."""
    scores = results["methods"].get(method, {}).get("tasks", {}).get(task, {})
    return mean(scores.get("test"))


def best_of(results: dict[str, Any], task: str) -> list[str]:
    """The methods with the best mean test score on a task, several when they tie."""
    sign = 1 if results["tasks"][task].get("higher_is_better", True) else -1
    means = {name: mean_test(results, name, task) for name in ranked(results)}
    known = {name: sign * round(value, 9) for name, value in means.items() if finite(value)}
    return [name for name, value in known.items() if value == max(known.values())]
