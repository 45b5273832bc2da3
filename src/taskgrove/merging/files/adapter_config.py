"""adapter_config.json of a PEFT LoRA folder: what it says, or why it cannot be merged.

    scale = alpha / r, or alpha / sqrt(r) with use_rslora           one for each adapted module

`rank_pattern` and `alpha_pattern` give r and alpha by regular expressions of module names; the
first that matches the end of a name, at a dot, counts. Kinds of LoRA whose change is not
scale * B A added to the base's own weights are refused by name.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import Any

from taskgrove.errors import TaskgroveError
from taskgrove.merging.checkpoint import json_of

CONFIG = "adapter_config.json"
STARTS = (True, False, None, "gaussian", "eva", "orthogonal")  # that leave the base as it is
REFUSED = {
    "alora_invocation_tokens": "it acts only after an invocation (aLoRA)",
    "arrow_config": "it routes each token to another adapter (Arrow)",
    "kasa_config": "KaSA replaces the base's weights",
    "layer_replication": "it repeats layers of the base",
    "monteclora_config": "its weights are drawn anew each time (MonteCLoRA)",
    "target_parameters": "it adapts parameters that are no layer's weight",
    "trainable_token_indices": "it replaces single rows of an embedding",
    "use_bdlora": "its factors are block-diagonal (BD-LoRA)",
    "use_qalora": "it pools its inputs (QA-LoRA)",
}


@dataclass(frozen=True)
class AdapterConfig:
    """What a LoRA's folder says of it."""

    base: str  # name or path of the model that it was trained on
    r: int
    alpha: float
    rslora: bool
    dora: bool
    fan_in_fan_out: bool
    ranks: Mapping[str, int]
    alphas: Mapping[str, float]

    def rank(self, module: str) -> int:
        """r of a module."""
        return int(_first(self.ranks, module, self.r))

    def scale(self, module: str) -> float:
        """Of B A, for a module.

        >>> config = AdapterConfig("", 4, 8, False, False, False, {"q": 16}, {})
        >>> config.scale("layer.q"), config.scale("layer.qq")
        (0.5, 2.0)
        """
        r = self.rank(module)
        return _first(self.alphas, module, self.alpha) / (sqrt(r) if self.rslora else r)


def adapter_config(folder: Path) -> AdapterConfig:
    """Reads it; refuses what cannot be merged."""
    facts = json_of(folder / CONFIG)
    kind = str(facts.get("peft_type", "")).upper()
    if kind != "LORA":
        raise TaskgroveError(
            f"{folder} is an adapter of type {kind or 'unknown'}; expected LORA: merge it into its"
            " base with PEFT, and give the merged model."
        )
    if reason := _refused(facts):
        raise TaskgroveError(
            f"{folder}: this LoRA cannot be merged exactly, since {reason}; expected plain LoRA,"
            " rsLoRA or DoRA."
        )
    try:
        return AdapterConfig(
            base=str(facts.get("base_model_name_or_path") or ""),
            r=int(facts["r"]),
            alpha=float(facts["lora_alpha"]),
            rslora=bool(facts.get("use_rslora")),
            dora=bool(facts.get("use_dora")),
            fan_in_fan_out=bool(facts.get("fan_in_fan_out")),
            ranks=dict(facts.get("rank_pattern") or {}),
            alphas=dict(facts.get("alpha_pattern") or {}),
        )
    except (KeyError, TypeError, ValueError):
        raise TaskgroveError(
            f'{folder / CONFIG} does not say "r" and "lora_alpha" as numbers; save the adapter'
            " again with PEFT."
        ) from None


def _refused(facts: Mapping[str, Any]) -> str | None:
    start = facts.get("init_lora_weights")
    if start not in STARTS:
        return (
            f'it began with init_lora_weights "{start}", which changes the base\'s weights (PEFT'
            " converts it with path_initial_model_for_weight_conversion)"
        )
    return next((reason for name, reason in REFUSED.items() if facts.get(name)), None)


def _first(pattern: Mapping[str, float], module: str, otherwise: float) -> float:
    for key, value in pattern.items():
        if re.match(rf"(.*\.)?({key})$", module):
            return value
    return otherwise
