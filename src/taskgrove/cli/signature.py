"""Options from a dataclass: a command's signature is made of its fields."""

import inspect
from types import NoneType
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer

REQUIRED = object()


def option(field: Any, owner: type[Any]) -> inspect.Parameter:
    """A dataclass field as an option: its type, help and default."""
    hint = get_type_hints(owner, include_extras=True)[field.name]
    kind, text = get_args(hint)[:2]
    kinds = [k for k in (get_args(kind) or (kind,)) if k is not NoneType]
    if any(get_origin(k) is tuple for k in kinds):
        inner = next(get_args(k)[0] for k in kinds if get_origin(k) is tuple)
        many = list[inner]  # pyright: ignore[reportInvalidTypeForm]
        default = None if field.default is None else [field.default]
        return parameter(field.name, Annotated[many | None, typer.Option(help=text)], default)
    return parameter(field.name, Annotated[kind, typer.Option(help=text)], field.default)


def is_one(value: Any, kind: Any) -> bool:
    """A single value where one number may stand for all models."""
    return isinstance(value, tuple) and len(value) == 1 and float in get_args(kind)


def parameter(name: str, kind: Any, default: Any = REQUIRED) -> inspect.Parameter:
    """An option of a command; without a default it must be given."""
    given = inspect.Parameter.empty if default is REQUIRED else default
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=given, annotation=kind)


def sign(function: Any, parameters: list[inspect.Parameter]) -> None:
    """Gives a function the signature that the command line is made from."""
    function.__signature__ = inspect.Signature(parameters)
    function.__annotations__ = {p.name: p.annotation for p in parameters}
