"""Published systems, each a composition of choices and a claim that a machine can check."""

from taskgrove.errors import TaskgroveError, did_you_mean, listed
from taskgrove.systems import (
    adamerging,
    atlas,
    icm_lora,
    logits_fusion,
    modular_vision,
    sam_mtl,
    scalearn,
    self_positioning,
)
from taskgrove.systems.system import System

SYSTEMS: dict[str, System] = {
    "sam_mtl": sam_mtl.SYSTEM,
    "adamerging": adamerging.SYSTEM,
    "atlas": atlas.SYSTEM,
    "self_positioning": self_positioning.SYSTEM,
    "logits_fusion": logits_fusion.SYSTEM,
    "scalearn": scalearn.SYSTEM,
    "modular_vision": modular_vision.SYSTEM,
    "icm_lora": icm_lora.SYSTEM,
}


def system_of(name: str) -> System:
    """The system called `name`."""
    if name not in SYSTEMS:
        hint = did_you_mean(name, SYSTEMS)
        raise TaskgroveError(f'there is no system "{name}"; there are {listed(SYSTEMS)}.{hint}')
    return SYSTEMS[name]


__all__ = ["SYSTEMS", "System", "system_of"]
