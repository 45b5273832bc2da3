"""The arms of the claim about ScaLearn: what a target with few rows makes of frozen adapters.

head_only: none. single_adapter: its own, trained on its rows. best_source: another task's, chosen
on validation. mean_of_adapters, fixed_2_S: all of them by scales 1 / S and 2 / S, not learned. The
others learn scales (sharing/scaled_adapters) or attention (sharing/adapter_fusion).
"""

from collections.abc import Mapping
from typing import Any

import torch

from taskgrove.sharing.adapter_fusion import AdapterFusion
from taskgrove.sharing.choice import Choice
from taskgrove.sharing.scaled_adapters import ScaledAdapters, ScaledParts
from taskgrove.sharing.sharing import Sharing
from taskgrove.systems.debian.transfer import (
    REDUCTION,
    Learned,
    Pace,
    Weights,
    frozen,
    learn,
    live,
    side_by_side,
    single,
    sources,
)
from taskgrove.systems.debian.transfer_rows import SOURCES, Part, World
from taskgrove.systems.system import Found

S, OWN = len(SOURCES), "own"
SCALED = {
    "scalearn": ScaledAdapters("vector", False, REDUCTION, S),
    "uniform": ScaledAdapters("scalar", False, REDUCTION, S),
    "scalearn_pp": ScaledAdapters("vector", True, REDUCTION, S),
    "uniform_pp": ScaledAdapters("scalar", True, REDUCTION, S, dropout=0.0),
}
LEARNED: dict[str, Choice] = {**SCALED, "adapter_fusion": AdapterFusion(REDUCTION, S)}
FIXED = {"mean_of_adapters": 1 / S, "fixed_2_S": 2 / S}  # omega, not learned
ARMS = ("head_only", "single_adapter", "best_source", *FIXED, *LEARNED)
Few = dict[str, Part]


def arms(here: World, target: str, parts: Few, pace: Pace) -> dict[str, Found]:
    others = {task: w for task, w in sources(here).items() if task != target}
    own, alone = single(here, target, parts, pace)
    adapters = {**others, OWN: own}
    heads = (parts, here.classes[target], pace, here.seed, {})
    plain = learn(frozen(here.trunk, None, parts), *heads)
    size = sum(w.numel() for w in own.values())
    found = {"head_only": _told(plain, 0), "single_adapter": _told(alone, size)}
    tried = {task: _fixed(here, {task: w}, 1.0, heads) for task, w in others.items()}
    best = max(tried, key=lambda task: tried[task].validation)
    found["best_source"] = {**_told(tried[best], 0), "source": best}
    for name, omega in FIXED.items():
        found[name] = _told(_fixed(here, adapters, omega, heads), 0)
    for name, choice in LEARNED.items():
        found[name] = _learned(here, choice, adapters, parts, pace, target)
    return found


def _attached(here: World, choice: Choice, adapters: Mapping[str, Weights]) -> Sharing:
    """Frozen adapters side by side, for one target."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(here.seed)
        sharing = Sharing(here.trunk, [("*", choice)], ["target"])
    sharing.parts[0].load_state_dict(side_by_side(list(adapters.values())), strict=False)
    return sharing


def _fixed(here: World, adapters: Mapping[str, Weights], omega: float, heads: Any) -> Learned:
    """A head over adapters whose scales are all `omega`."""
    sharing = _attached(here, ScaledAdapters("scalar", True, REDUCTION, len(adapters)), adapters)
    parts: Any = sharing.parts[0]
    torch.nn.init.constant_(parts.omega["all"], omega)
    found = learn(frozen(here.trunk, sharing, heads[0]), *heads)
    sharing.detach()
    return found


def _learned(
    here: World, choice: Choice, adapters: Mapping[str, Weights], few: Few, pace: Pace, target: str
) -> Found:
    """Scales, or attention, and a head."""
    sharing = _attached(here, choice, adapters)
    parts: Any = sharing.parts[0]
    moving = [p for p in sharing.parameters() if p.requires_grad]
    kind = "omega" if isinstance(parts, ScaledParts) else "fusion"
    found = learn(live(here.trunk, sharing, few), few, here.classes[target], pace, here.seed,
                  {kind: moving}, sharing)  # fmt: skip
    sharing.detach()
    told = _told(found, sum(p.numel() for p in moving))
    if isinstance(parts, ScaledParts):
        rounded = parts.contributions()[0].double().mul(1e4).round().div(1e4).tolist()
        told["omega"] = dict(zip(adapters, rounded, strict=True))
    return told


def _told(found: Learned, parameters: int) -> Found:
    rows = "".join(str(int(one)) for one in found.right)
    return {"test": 100 * found.right.double().mean().item(), "validation": found.validation,
            "parameters": parameters, "right": rows}  # fmt: skip
