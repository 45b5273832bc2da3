"""One sentence for the first mistake that pydantic found in a tasks file."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from taskgrove.errors import did_you_mean, listed

Keys = Mapping[str, Sequence[str]]  # the keys that "top", "task", "split" and "data" may have


WORDS = {
    "split": "fractions such as {validation: 0.15, test: 0.15}, or a column's name",
    "data": "a path, or paths such as {train: a.csv, test: b.csv}",
    "mixture": "uniform, proportional, or a mapping of temperature, cap, weights and groups",
    "classes": "a list of class names, or how many there are",
    "text": "a column's name, or a list of them",
    "numbers": "a list of column names",
    "categories": "a list of column names",
}
TYPES = {"float": "a number", "int": "a whole number", "string": "text", "bool": "true or false"}
BOUNDS = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}


def sentence(error: ValidationError, values: dict[str, Any], keys: Keys) -> str:
    """The first problem in the user's own names; `values` is what they wrote."""
    first = min(error.errors(), key=lambda e: (e["type"] != "extra_forbidden", -len(e["loc"])))
    place = [part for part in first["loc"] if not _is_branch(part)] or [str(first["loc"][-1])]
    who = "the top level"
    if place[:1] == ["tasks"] and len(place) > 1:
        name, place = str(place[1]), place[2:]
        own = values["tasks"].get(name) or {}
        if not place or place[0] in own or place[0] not in values:
            who = f'task "{name}"'
    if place[0] == "data" or first["type"] == "list_type":
        place = place[:1]
    key = ".".join(str(part) for part in place)
    if first["type"] == "extra_forbidden":
        known = keys["task"] if who.startswith("task") else (*keys["top"], *keys["task"])
        known = keys.get(str(place[0]), known) if len(place) > 1 else known
        hint = did_you_mean(str(place[-1]), known)
        return f'{who} has an unknown key "{key}".{hint or f" It may have: {listed(known, 20)}."}'
    if first["type"] == "missing":
        return f'{who} has no "{key}": name the file with the rows (data: rows.csv)'
    got = values.get("data") if key == "data" and who == "the top level" else first["input"]
    return f'{who} has {key}: {got!r}, but "{key}" must be {_wanted(first, place)}'


def _is_branch(part: Any) -> bool:
    """Pydantic names the branches of a union in an error's place; a user never wrote them."""
    starts = ("dict[", "list[", "literal[", "[key]", "function-")
    return isinstance(part, str) and (part in ("str", "Fractions") or part.startswith(starts))


def _wanted(first: Any, place: list[Any]) -> str:
    """What a value should have been."""
    if str(place[0]) in WORDS and len(place) < 2:
        return WORDS[str(place[0])]
    context = first.get("ctx", {})
    if "expected" in context:
        return f"{context['expected']}".replace("'", '"')
    bounds = [f"{word} {context[kind]:g}" for kind, word in BOUNDS.items() if kind in context]
    if bounds:
        return "a number " + " and ".join(bounds)
    return TYPES.get(first["type"].split("_")[0]) or str(first["msg"])


def shape(value: Any) -> str:
    """What a newcomer calls it."""
    return {"list": "list", "dict": "mapping", "str": "piece of text"}.get(
        type(value).__name__, f"single value ({value!r})"
    )
