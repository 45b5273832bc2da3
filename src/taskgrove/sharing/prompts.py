"""Prompts: a few learned vectors of each task's own among the tokens of a transformer.

Prompt tuning: Lester, Al-Rfou, Constant, EMNLP 2021, arXiv 2104.08691. Visual prompts, shallow and
deep: Jia et al., "Visual Prompt Tuning", ECCV 2022, arXiv 2203.12119; deep prompts of text: Liu et
al., "P-Tuning v2", ACL 2022, arXiv 2110.07602.

    [P_t^1, X] -> layer 1 -> [Z, X] -> layer 2 -> ... -> [Z, X] -> X           shallow
    [P_t^l, X] -> layer l -> [Z, X] -> X, for each layer l                     "deep"

Symbols: X [entry token dim] what the layers pass on; P [task layer prompt dim], Normal(0, 0.02); Z
what became of the prompts, dropped behind the last layer (deep: behind each), so that whatever
pools the tokens does not see them. Masks that layers are given let all tokens see the prompts.
Differs from the papers: prompts are put before all tokens, the class token too, and enter at the
first layer, behind the embedding's norm and positions. Layers with rotary positions are refused:
their positions would be the prompts'. Keys and values alone (prefix tuning) are not offered.
Cost: attention over as many tokens more; prompt dim numbers a task (deep: times the layers).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from taskgrove.errors import TaskgroveError
from taskgrove.sharing.choice import Parts, Point
from taskgrove.sharing.low_rank import of_groups
from taskgrove.sharing.route import Route
from taskgrove.sharing.stacked import grow

SPREAD = 0.02
LEAST = 3  # linear layers that a transformer's layer has at least


@dataclass(frozen=True)
class Prompts:
    """Settings, a line each."""

    length: int = 8  # vectors a task
    deep: bool = False  # new ones in each layer

    about: ClassVar[str] = "learned vectors among the tokens (Lester et al. 2021, Jia et al. 2022)"
    starts_at_base: ClassVar[bool] = False

    def sites(self, trunk: nn.Module) -> list[str]:
        """The layers of the trunk's largest stack of transformer layers."""
        return stack(trunk)

    def parts(self, trunk: nn.Module, sites: list[str], tasks: int) -> "PromptParts":
        """Raises TaskgroveError for a length below 1."""
        if self.length < 1:
            raise TaskgroveError(f"{self.length} prompts: give 1 or more")
        return PromptParts(self, trunk, sites, tasks)


class PromptParts(Parts):
    """P of all tasks."""

    stacked: ClassVar[frozenset[str]] = frozenset({"P"})
    undecayed: ClassVar[frozenset[str]] = frozenset({"P"})
    rates: ClassVar[Mapping[str, float]] = {"P": 10.0}

    def __init__(self, choice: Prompts, trunk: nn.Module, sites: list[str], tasks: int) -> None:
        super().__init__()
        self.choice, self.names = choice, sites
        layers, dim = len(sites) if choice.deep else 1, width(trunk.get_submodule(sites[0]))
        self.P = nn.Parameter(SPREAD * torch.randn(tasks, layers, choice.length, dim))

    def points(self) -> dict[str, Point]:
        """Into the first layer and out of the last; deep: into and out of each."""
        last, deep = len(self.names) - 1, self.choice.deep
        return {
            site: Point(
                "around",
                partial(self._in, n if deep else 0, n == 0 or deep),
                partial(self._out, n == last or deep),
            )
            for n, site in enumerate(self.names)
        }

    def _in(self, layer: int, enters: bool, args: Any, kwargs: Any, route: Route) -> Any:
        """The layer's arguments with the prompts, or with masks for them alone."""
        if "position_embeddings" in kwargs:
            raise TaskgroveError(
                "the trunk turns its tokens by rotary positions, which prompts would shift: choose"
                " another way to share"
            )
        x = args[0] if args else kwargs["hidden_states"]
        tokens = x.shape[1] - (0 if enters else self.choice.length)
        if enters:
            x = self._with(x, layer, route)
        masked = partial(_masked, self.choice.length, tokens)
        rest = {name: masked(value) for name, value in kwargs.items()}
        if args:
            return (x, *map(masked, args[1:])), rest
        return args, {**rest, "hidden_states": x}

    def _with(self, x: Tensor, layer: int, route: Route) -> Tensor:
        if x.ndim != 3 or len(x) != route.starts[-1]:
            raise TaskgroveError(
                f"prompts go among [entry token dim], but a layer got {tuple(x.shape)} for"
                f" {route.starts[-1]} entries"
            )
        own = of_groups(self.P[:, layer], route, x)  # [group prompt dim]
        own = own.repeat_interleave(len(x) // len(own), 0, output_size=len(x))
        return torch.cat([own.to(x.dtype), x], 1)

    def _out(self, leaves: bool, y: Tensor, route: Route) -> Tensor:  # noqa: ARG002
        return y[:, self.choice.length :] if leaves else y

    def add(self, tasks: int) -> None:
        grow(self.P, SPREAD * torch.randn(tasks, *self.P.shape[1:]))


def _masked(prompts: int, tokens: int, value: Any) -> Any:
    """A mask [entry token] or [entry head token token] that lets all see the prompts as well; the
    prompts see what the last token sees."""
    if not isinstance(value, Tensor) or value.ndim not in (2, 4) or value.shape[-1] != tokens:
        return value
    seen = 0.0 if value.is_floating_point() and value.ndim == 4 else 1
    if value.ndim == 4 and value.shape[2] == tokens:
        value = torch.cat([value[:, :, -1:].expand(-1, -1, prompts, -1), value], 2)
    return pad(value, (prompts, 0), value=seen)


def stack(trunk: nn.Module) -> list[str]:
    """Names of the layers of the largest list of equal transformer layers; none where there is no
    such list."""
    found: dict[str, int] = {}
    for name, module in trunk.named_modules():
        layers = list(module) if isinstance(module, nn.ModuleList) else []
        alike = len({type(layer) for layer in layers}) == 1
        if alike and all(_linears(layer) >= LEAST for layer in layers):
            found[name] = sum(p.numel() for p in module.parameters())
    if not found:
        return []
    name = max(found, key=lambda n: found[n])
    count = len(trunk.get_submodule(name))  # pyright: ignore[reportArgumentType]
    return [f"{name}.{n}" for n in range(count)]


def _linears(layer: nn.Module) -> int:
    return sum(isinstance(module, nn.Linear) for module in layer.modules())


def width(layer: nn.Module) -> int:
    """What the layer reads: the inputs of its first linear layer."""
    return next(m.in_features for m in layer.modules() if isinstance(m, nn.Linear))
