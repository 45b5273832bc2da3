"""The ways to share by name: one a file, one explicit table; and rules as JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from taskgrove.errors import TaskgroveError, did_you_mean, listed
from taskgrove.sharing.adapter import Adapter
from taskgrove.sharing.adapter_fusion import AdapterFusion
from taskgrove.sharing.choice import Choice
from taskgrove.sharing.conv_lora import ConvLoRA
from taskgrove.sharing.hyperformer import HyperFormer, Polyhistor
from taskgrove.sharing.ia3 import IA3
from taskgrove.sharing.lora import LoRA
from taskgrove.sharing.mmoe import MMoE
from taskgrove.sharing.polyhistor_lite import PolyhistorLite
from taskgrove.sharing.prompts import Prompts
from taskgrove.sharing.routed_lora import MHR, Poly
from taskgrove.sharing.scaled_adapters import ScaledAdapters
from taskgrove.sharing.sharing import Rule
from taskgrove.sharing.skills import Skills
from taskgrove.sharing.upcycle import Experts
from taskgrove.tasks.strict_yaml import parse

CHOICES: dict[str, type[Choice]] = {
    "lora": LoRA,
    "conv_lora": ConvLoRA,
    "adapter": Adapter,
    "ia3": IA3,
    "scaled_adapters": ScaledAdapters,
    "adapter_fusion": AdapterFusion,
    "hyperformer": HyperFormer,
    "polyhistor": Polyhistor,
    "polyhistor_lite": PolyhistorLite,
    "prompt": Prompts,
    "poly": Poly,
    "mhr": MHR,
    "experts": Experts,
    "skills": Skills,
    "mmoe": MMoE,
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


def read_rules(file: Path) -> list[Rule]:
    """Rules from a YAML or JSON file: pairs of a pattern, or several, and a choice's settings.

    - ["*.attention.*", {choice: lora, rank: 4}]
    - ["*", {choice: lora, rank: 8}]
    """
    try:
        found = parse(file.read_text("utf-8"), str(file))
    except (OSError, UnicodeDecodeError) as error:
        raise TaskgroveError(f"{file} cannot be read ({error}): name a file of rules") from None
    whole = isinstance(found, list) and found
    if not whole or not all(isinstance(p, list) and len(p) == 2 for p in found):
        raise TaskgroveError(
            f'{file} must be a list of pairs such as ["*.attention.*", {{choice: lora, rank: 4}}]'
        )
    for pattern, settings in found:
        several = pattern if isinstance(pattern, list) else [pattern]
        if not all(isinstance(one, str) for one in several) or not isinstance(settings, dict):
            raise TaskgroveError(
                f"{file}: a rule is {pattern!r}, {settings!r}; expected a pattern of module names"
                " and a mapping with the key choice"
            )
    return from_json(found)


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
    try:
        return TypeAdapter(CHOICES[name]).validate_python(rest)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise TaskgroveError(
            f"{name}: {where} is {first['input']!r}: {first['msg'].lower()}"
        ) from None
