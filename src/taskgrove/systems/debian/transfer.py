"""Adapters of a Debian task's own, and whatever else a target learns on a frozen trunk.

Every arm trains in the same way: AdamW on a linear head, which starts at 0, and on what the arm
moves, the rate falling along a line; of a few looks at the validation rows the best is kept, the
later one of two as good. A seed's source adapters are kept in the user's cache.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from taskgrove.merging.learned.rounds import drawn
from taskgrove.sharing import adapter
from taskgrove.sharing.adapter import Adapter
from taskgrove.sharing.route import Route
from taskgrove.sharing.sharing import Sharing
from taskgrove.systems.debian import packed_bert
from taskgrove.systems.debian.debtag_models import kept, mark_of
from taskgrove.systems.debian.packed_bert import PackedBert
from taskgrove.systems.debian.top_layers import Texts
from taskgrove.systems.debian.transfer_rows import SOURCES, Part, World

REDUCTION = 16  # 384 to 24
RATES = {"head": 1e-2, "adapter": 1e-3, "omega": 2e-2, "fusion": 2e-4}
LOOKS = 4
Weights = dict[str, Tensor]  # D, c, U, e of adapters by site, with an axis for the adapter


def features(trunk: PackedBert, sharing: Sharing | None, texts: Texts) -> Float[Tensor, "row dim"]:
    """Of texts, with the parts of the only task there is."""
    if sharing is None:
        return trunk(texts)
    count = len(texts.tokens)
    with sharing.using(Route((), torch.arange(count), (0, count), (0,))):
        return trunk(texts)


Pace = tuple[int, int]  # steps, and rows of a step
Read = Callable[[str, Int[Tensor, " row"] | None], Tensor]  # (part, rows) -> features


def live(trunk: PackedBert, sharing: Sharing | None, parts: Mapping[str, Part]) -> Read:
    """Features as the parts are now."""

    def read(name: str, rows: Tensor | None) -> Tensor:
        texts = parts[name].texts
        if rows is not None:
            return features(trunk, sharing, texts.take(rows))
        order = texts.lengths.argsort()  # short texts beside short ones
        found = [features(trunk, sharing, texts.take(some)) for some in order.split(64)]
        return torch.cat(found)[order.argsort()]

    return read


@torch.no_grad()
def frozen(trunk: PackedBert, sharing: Sharing | None, parts: Mapping[str, Part]) -> Read:
    """The same, computed once: nothing in them will move."""
    read = live(trunk, sharing, parts)
    if sharing is not None:
        sharing.eval()
    known = {name: read(name, None) for name in parts}
    return lambda name, rows: known[name] if rows is None else known[name][rows]


@dataclass(frozen=True)
class Learned:
    """The best look: validation accuracy, and which test rows are told right."""

    validation: float
    right: Bool[Tensor, " row"]


def learn(
    read: Read,
    parts: Mapping[str, Part],
    classes: int,
    pace: Pace,
    seed: int,
    moving: Mapping[str, Sequence[nn.Parameter]],
    sharing: Sharing | None = None,
) -> Learned:
    """Trains a head, and `moving` {what, as in RATES: parameters}; leaves them at the best look."""
    (steps, batch), dim = pace, read("train", torch.arange(1)).shape[1]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = nn.Linear(dim, classes)
        for p in head.parameters():
            nn.init.zeros_(p)
        groups = {"head": list(head.parameters()), **moving}
        adam = torch.optim.AdamW([_group(name, found) for name, found in groups.items() if found])
        every = [p for found in groups.values() for p in found]
        rows, best, held = torch.arange(len(parts["train"].labels)), -1.0, []
        for step in range(steps):
            for group in adam.param_groups:
                group["lr"] = group["peak"] * (1 - step / steps)
            some = drawn(rows, step, batch, seed)
            if sharing is not None:
                sharing.train()
            adam.zero_grad()
            cross_entropy(head(read("train", some)), parts["train"].labels[some]).backward()
            adam.step()
            if (step + 1) * LOOKS // steps > step * LOOKS // steps:
                found = _right(read, head, sharing, parts, "validation").double().mean().item()
                if found >= best:
                    best, held = found, [p.detach().clone() for p in every]
    with torch.no_grad():
        for p, value in zip(every, held, strict=True):
            p.copy_(value)
    return Learned(100 * best, _right(read, head, sharing, parts, "test"))


def _group(name: str, parameters: Sequence[nn.Parameter]) -> dict[str, Any]:
    decay = 0.0 if name == "omega" else 0.01
    return {"params": list(parameters), "peak": RATES[name], "weight_decay": decay}


@torch.no_grad()
def _right(
    read: Read, head: nn.Linear, sharing: Sharing | None, parts: Mapping[str, Part], name: str
) -> Tensor:
    if sharing is not None:
        sharing.eval()
    return head(read(name, None)).argmax(1) == parts[name].labels


def single(
    here: World, task: str, parts: Mapping[str, Part], pace: Pace
) -> tuple[Weights, Learned]:
    """An adapter of a task's own, and what it gets with it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1000 * here.seed + SOURCES.index(task))
        sharing = Sharing(here.trunk, [("*", Adapter(reduction=REDUCTION))], [task])
    read, moving = live(here.trunk, sharing, parts), list(sharing.parameters())
    found = learn(read, parts, here.classes[task], pace, here.seed, {"adapter": moving}, sharing)
    sharing.detach()
    return {name: w.detach() for name, w in sharing.parts[0].state_dict().items()}, found


def sources(here: World) -> dict[str, Weights]:
    """{task: its adapter, trained on its large training part}; trained once a seed."""

    pace = here.size.source_steps, here.size.source_batch

    def make() -> dict[str, Tensor]:
        found = {}
        for task in SOURCES:
            weights, learned = single(here, task, here.parts[task], pace)
            found |= {f"{task}:{name}": w.contiguous() for name, w in weights.items()}
            found[f"{task}:validation"] = torch.tensor([learned.validation])
        return found

    mark = mark_of((adapter, packed_bert, sys.modules[__name__]), here.mark)
    known = kept(f"debian-sources-{mark}", make)
    return {
        task: {n.split(":")[1]: w for n, w in known.items()
               if n.startswith(f"{task}:") and not n.endswith(":validation")}
        for task in SOURCES
    }  # fmt: skip


def side_by_side(adapters: Sequence[Weights]) -> Weights:
    """Adapters in one: the names of ScaledAdapters' parts."""
    return {name: torch.cat([one[name] for one in adapters]) for name in adapters[0]}
