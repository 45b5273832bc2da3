"""Parameters of a method, by tensor: a value for all, or ordered rules of (pattern, value).

The first pattern that matches a tensor's name gives its value; a pattern that no tensor matches,
and a tensor that no pattern matches, are errors, since either is a mistyped name.

    density: 0.2
    scale: [["*.mlp.*", 0.4], ["*", 0.2]]           patterns as in file names: * ? [abc]
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from fnmatch import fnmatchcase
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from taskgrove.errors import TaskgroveError, did_you_mean, listed
from taskgrove.merging.static.static import Static


def by_tensor(
    method: str, static: Static, given: Mapping[str, Any], names: Sequence[str], models: int
) -> dict[str, Any]:
    """{tensor: the method's parameters for it}."""
    kinds = kinds_of(static.parameters)
    if unknown := [name for name in given if name not in kinds]:
        hint = did_you_mean(unknown[0], kinds)
        raise TaskgroveError(
            f'{method} has no parameter "{unknown[0]}"; it has {listed(kinds) or "none"}.{hint}'
        )
    ruled = {name: value for name, value in given.items() if is_rules(value)}
    plain = {name: read(name, given[name], kinds[name]) for name in given if name not in ruled}
    rules = {
        name: [(pattern, read(name, value, kinds[name])) for pattern, value in pairs]
        for name, pairs in ruled.items()
    }
    for name, pairs in rules.items():
        _all_match(name, [pattern for pattern, _ in pairs], names)
    first = static.parameters(**plain)
    found: dict[tuple[Any, ...], Any] = {}
    chosen = {}
    for tensor in names:
        values = tuple(_first(name, pairs, tensor) for name, pairs in rules.items())
        if values not in found:
            found[values] = replace(first, **dict(zip(rules, values, strict=True)))
            _one_a_model(method, found[values], models)
        chosen[tensor] = found[values]
    _uniform(method, static, list(found.values()))
    return chosen


def kinds_of(parameters: type[Any]) -> dict[str, Any]:
    """{parameter: its type}."""
    hints = get_type_hints(parameters)
    return {field.name: hints[field.name] for field in fields(parameters)}


def is_rules(value: object) -> bool:
    """A list of (pattern, value) pairs."""
    return (
        isinstance(value, list | tuple)
        and bool(value)
        and all(
            isinstance(p, list | tuple) and len(p) == 2 and isinstance(p[0], str) for p in value
        )
    )


def read(name: str, value: Any, kind: Any) -> Any:
    """`value` as a parameter's type, or one sentence."""
    for option in get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,):
        try:
            return _as(value, option)
        except ValueError:
            continue
    raise TaskgroveError(f"{name} is {value!r}; expected {words(kind)}.")


def words(kind: Any) -> str:
    """A type as a user says it.

    >>> words(float | tuple[float, ...])
    'a number or a list of numbers'
    """
    if get_origin(kind) in (Union, UnionType):
        return " or ".join(words(option) for option in get_args(kind))
    if get_origin(kind) is Literal:
        return listed(get_args(kind))
    if get_origin(kind) is tuple:
        return "a list of numbers"
    plain = {bool: "true or false", int: "a whole number", float: "a number", str: "a word"}
    return {**plain, NoneType: "nothing"}[kind]


def _as(value: Any, kind: Any) -> Any:
    if get_origin(kind) is tuple:
        if not isinstance(value, list | tuple) or not value:
            raise ValueError
        return tuple(_as(each, get_args(kind)[0]) for each in value)
    if get_origin(kind) is Literal:
        if value in get_args(kind):
            return value
        raise ValueError
    if kind is NoneType:
        if value is None:
            return None
        raise ValueError
    if kind is float and type(value) in (int, float) and abs(value) < float("inf"):
        return float(value)
    if type(value) is kind and kind is not float:
        return value
    raise ValueError


def _first(name: str, pairs: Iterable[tuple[str, Any]], tensor: str) -> Any:
    for pattern, value in pairs:
        if fnmatchcase(tensor, pattern):
            return value
    raise TaskgroveError(
        f'no rule of {name} matches the tensor "{tensor}"; end the rules with one for "*".'
    )


def _all_match(name: str, patterns: Sequence[str], names: Sequence[str]) -> None:
    for pattern in patterns:
        if not any(fnmatchcase(tensor, pattern) for tensor in names):
            hint = did_you_mean(pattern, names) or f" There are {listed(names, 3)}."
            raise TaskgroveError(f'{name}: the pattern "{pattern}" matches no tensor.{hint}')


def _one_a_model(method: str, parameters: Any, models: int) -> None:
    for field in fields(parameters):
        value = getattr(parameters, field.name)
        if isinstance(value, tuple) and len(value) != models:
            raise TaskgroveError(
                f"{method}: {field.name} has {len(value)} values; expected one for each of the"
                f" {models} models."
            )


def _uniform(method: str, static: Static, all_: Sequence[Any]) -> None:
    if "model" in {static.over(each) for each in all_}:
        for name in static.whole:
            if len({getattr(each, name) for each in all_}) > 1:
                raise TaskgroveError(
                    f"{method}: {name} is counted over the whole model, so it cannot differ between"
                    " tensors; give one value"
                    + (", or trim: tensor." if "trim" in static.whole else ".")
                )
