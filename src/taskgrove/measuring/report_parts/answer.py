"""The answer, the winners by task and the verdicts, as plain data."""

from typing import Any

from taskgrove.measuring.report_parts.wording import (
    PHRASES,
    REFERENCE,
    SIGNS,
    best_of,
    count,
    delta_m,
    finite,
    listing,
    percent,
    ranked,
    sentence,
    span,
    standing,
)

Results = dict[str, Any]


def answer(results: Results) -> dict[str, str]:
    """Is a method better than separate models: a word, a sentence and what else holds."""
    found = {name: standing(name, method) for name, method in results["methods"].items()}
    rivals = [name for name in ranked(results) if found[name] in ("better", "worse", "unclear")]
    if not rivals:
        word = "Nothing to compare." if len(found) < 2 else "Not measured."
        text = "No method has a gain over separate models."
        return {"word": word, "kind": "unclear", "text": text, "more": ""}
    first, many = rivals[0], len(rivals) > 1
    effect = _effect(results, first)
    better = [name for name in rivals if found[name] == "better"]
    if better:
        text = f"{first} is better than separate models: {effect}."
        more = f"Better too: {_some(better[1:])}." if len(better) > 1 else ""
        return {"word": "Yes.", "kind": "better", "text": text, "more": more}
    if all(found[name] == "worse" for name in rivals):
        text = f"Each of {len(rivals)} methods is worse than separate models; nearest is {first}"
        text = text if many else f"{first} is worse than separate models"
        return {"word": "No.", "kind": "worse", "text": f"{text}: {effect}.", "more": ""}
    text = f"No method is shown to be better than separate models; nearest is {first}"
    text = text if many else f"{first} is not shown to differ from separate models"
    return {"word": "Not shown.", "kind": "unclear", "text": f"{text}: {effect}.", "more": ""}


def _effect(results: Results, name: str) -> str:
    method, many = results["methods"][name], len(results["tasks"])
    interval = span(method.get("delta_m_interval"), percent)
    within = f" (95 % interval {interval})" if interval else ", without an interval"
    over = f" on average over {count(many)} tasks" if many != 1 else ""
    return f"{percent(delta_m(method))} %{over}{within}"


def _some(names: list[str], most: int = 4) -> str:
    rest = len(names) - most
    return listing(names if rest <= 0 else [*names[:most], f"{rest} more"])


def tally(results: Results) -> list[dict[str, Any]]:
    """The methods that are best on a task by mean test score, with the names of those tasks."""
    wins: dict[str, list[str]] = {name: [] for name in ranked(results)}
    for task in results["tasks"]:
        for name in best_of(results, task):
            wins[name].append(task)
    rows = [{"name": name, "tasks": tasks} for name, tasks in wins.items() if tasks]
    return sorted(rows, key=lambda row: -len(row["tasks"]))


def verdicts(results: Results) -> list[dict[str, str]]:
    """One sentence per method: the best first, separate models last."""
    rows = []
    for name in sorted(ranked(results), key=lambda name: name == REFERENCE):
        kind = standing(name, results["methods"][name])
        words = sentence(name, results["methods"][name]).removeprefix(f"{name}: ")
        row = {"name": name, "kind": kind, "sign": SIGNS[kind], "phrase": PHRASES[kind]}
        rows.append({**row, "sentence": words[:1].upper() + words[1:] if words != "" else ""})
    return rows


def gain_rows(results: Results, reference: bool = False) -> list[dict[str, Any]]:
    """Name, mean, interval and seeds of delta-m of each measured method, from best to worst."""
    rows = []
    for name in ranked(results):
        method = results["methods"][name]
        if name == REFERENCE and reference:
            rows.append({"name": name, "mean": 0.0, "interval": [], "seeds": []})
        elif name != REFERENCE and finite(delta_m(method)):
            ends, seeds = finite(method.get("delta_m_interval")), finite(method.get("delta_m"))
            ends = ends if len(ends) == 2 else []
            rows.append({"name": name, "mean": delta_m(method), "interval": ends, "seeds": seeds})
    return rows
