"""The ways to share by name: one a file, one explicit table; and rules as JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

from taskgrove.errors import TaskgroveError, did_you_mean, listed
from taskgrove.sharing.choice import Choice
from taskgrove.sharing.lora import LoRA
from taskgrove.sharing.sharing import Rule

CHOICES: dict[str, type[Choice]] = {
    "lora": LoRA,
}


def to_json(rules: Sequence[Rule]) -> list[list[Any]]:
    """Rules as lists: [pattern, {"choice": name, setting: value, ...}]."""
    names = {kind: name for name, kind in CHOICES.items()}
    return [
        [pattern, {"choice": names[type(choice)], **asdict(choice)}]  # pyright: ignore
        for pattern, choice in rules
    ]


def from_json(rules: Sequence[Sequence[Any]]) -> list[Rule]:
    """What `to_json` wrote; raises TaskgroveError for a name or setting that does not exist."""
    plain = [pattern if isinstance(pattern, str) else tuple(pattern) for pattern, _ in rules]
    return [(p, choice_of(settings)) for p, (_, settings) in zip(plain, rules, strict=True)]


def choice_of(settings: Mapping[str, Any]) -> Choice:
    """A choice from its name and settings."""
    name, rest = settings.get("choice"), {k: v for k, v in settings.items() if k != "choice"}
    if name not in CHOICES:
        hint = did_you_mean(str(name), CHOICES)
        raise TaskgroveError(
            f'there is no way to share "{name}"; there are {listed(CHOICES, 40)}.{hint}'
        )
    known = [field.name for field in fields(CHOICES[name])]  # pyright: ignore[reportArgumentType]
    if beyond := [key for key in rest if key not in known]:
        hint = did_you_mean(beyond[0], known)
        raise TaskgroveError(f'{name} has no setting "{beyond[0]}"; it has {listed(known)}.{hint}')
    return CHOICES[name](**rest)
