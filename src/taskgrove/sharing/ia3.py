"""IA3: each task scales keys, values and the inner activations of feed-forward blocks.

Liu et al., "Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper than In-Context
Learning", NeurIPS 2022, arXiv 2205.05638.

    k <- l_k k,  v <- l_v v           after the layers of keys and values
    h <- l_ff h                       before the last layer of a feed-forward block

Symbols: l [task dim], ones, so the start is the base model; l stands for every token of the task.
Differs from the paper: where keys and values come from one fused layer, queries are scaled too.
Cost: a product a number; d parameters a task and site.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from taskgrove.sharing.choice import Parts, Point, contractions, linears, sides_at
from taskgrove.sharing.lora import key
from taskgrove.sharing.low_rank import of_groups, together
from taskgrove.sharing.route import Route
from taskgrove.sharing.stacked import grow

SCALED = {"key", "value", "k_proj", "v_proj", "k", "v", "k_lin", "v_lin", "qkv", "c_attn"}


@dataclass(frozen=True)
class IA3:
    """It has no settings."""

    about: ClassVar[str] = "a task's scales of keys, values and inner activations (Liu et al. 2022)"
    starts_at_base: ClassVar[bool] = True

    def sites(self, trunk: nn.Module) -> list[str]:
        """Layers of keys and values by name, and the ends of feed-forward blocks."""
        ends = set(contractions(trunk))
        return [n for n in linears(trunk) if n in ends or n.rpartition(".")[2] in SCALED]

    def parts(self, trunk: nn.Module, sites: list[str], tasks: int) -> "IA3Parts":
        """Scales of all tasks."""
        return IA3Parts(trunk, sites, tasks)


class IA3Parts(Parts):
    """l of all tasks at all sites."""

    stacked: ClassVar[frozenset[str]] = frozenset({"scale"})
    rates: ClassVar[Mapping[str, float]] = {"scale": 3.0}  # the paper's 3e-3

    def __init__(self, trunk: nn.Module, sites: list[str], tasks: int) -> None:
        super().__init__()
        self.ends = {site: site in contractions(trunk) for site in sites}
        self.scale = nn.ParameterDict()
        for site, end in self.ends.items():
            out, dim = sides_at(trunk, site)
            self.scale[key(site)] = nn.Parameter(torch.ones(tasks, dim if end else out))

    def points(self) -> dict[str, Point]:
        """Before the end of a feed-forward block, after the others."""
        return {
            site: Point("before", partial(self._scaled, key(site)))
            if end
            else Point("after", partial(self._after, key(site)))
            for site, end in self.ends.items()
        }

    def _after(self, name: str, x: Tensor, y: Tensor, route: Route) -> Tensor:  # noqa: ARG002
        return self._scaled(name, y, route)

    def _scaled(self, name: str, x: Tensor, route: Route) -> Tensor:
        own = of_groups(self.scale[name], route, x).unsqueeze(1)  # [group 1 dim]
        return (together(x, route) * own.to(x.dtype)).view(x.shape)

    def add(self, tasks: int) -> None:
        for scale in self.scale.values():
            grow(scale, torch.ones(tasks, *scale.shape[1:]))
