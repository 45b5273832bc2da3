"""ScaledAdapters: frozen adapters of all source tasks side by side, weighed by learned scales.

Frohmann, Holtermann, Masoudian, Lauscher, Rekabsaz, "ScaLearn: Simple and Highly
Parameter-Efficient Task Transfer by Learning to Scale", Findings of ACL 2024, arXiv 2310.01217.

    o_s = U_s^T relu(D_s h + c_s) + e_s            each source's adapter, without residual
    n( sum_s omega_{t,s} * o_s + f + x )           what the block gives

Symbols: f, x, h, n as in adapter, which says where blocks have no n; [entry ... dim]; D, U [source
bottleneck dim]; omega [task site source dim], a vector a source, or [task site source 1], a number
("scalar": ScaLearnUniform); `share_layers`: one omega for all sites (ScaLearn++). omega starts at
Normal(2 / S, 0.001); its entries are dropped out; no softmax, no constraint.
Since omega acts after U, all sources are one wide bottleneck, D stacked and omega U stacked: exact,
and one product. Differs from the paper: nothing in post-norm blocks; elsewhere the adapters read f.
Cost a token and site: S adapters; S dim (or S) numbers a task and site.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout, linear

from taskgrove.errors import TaskgroveError
from taskgrove.sharing.adapter import Weights, bottlenecks, norms, placed
from taskgrove.sharing.choice import Parts, Point, contractions, sides_at
from taskgrove.sharing.lora import key
from taskgrove.sharing.low_rank import of_groups, together, up_
from taskgrove.sharing.route import Route
from taskgrove.sharing.stacked import grow

SPREAD = 0.001


@dataclass(frozen=True)
class ScaledAdapters:
    """Settings, a line each."""

    shape: Literal["vector", "scalar"] = "vector"
    share_layers: bool = False
    reduction: int = 16
    sources: int | None = None  # None: as many as tasks
    dropout: float = 0.3  # of omega

    about: ClassVar[str] = "all tasks' adapters, scaled anew for each task (ScaLearn, 2024)"
    starts_at_base: ClassVar[bool] = True  # while the sources are untrained

    def sites(self, trunk: nn.Module) -> list[str]:
        """The ends of feed-forward blocks, as of adapters."""
        return contractions(trunk)

    def parts(self, trunk: nn.Module, sites: list[str], tasks: int) -> "ScaledParts":
        """Raises TaskgroveError where one omega should serve sites of several widths."""
        widths = {sides_at(trunk, site)[0] for site in sites}
        if self.share_layers and self.shape == "vector" and len(widths) > 1:
            raise TaskgroveError(
                f"one omega for all sites needs one width, these have {sorted(widths)}: leave out"
                ' share_layers, or give shape "scalar"'
            )
        return ScaledParts(self, trunk, sites, tasks)


class ScaledParts(Parts):
    """The sources' adapters at all sites, frozen, and every task's omega."""

    stacked: ClassVar[frozenset[str]] = frozenset({"omega"})
    undecayed: ClassVar[frozenset[str]] = frozenset({"omega"})
    rates: ClassVar[Mapping[str, float]] = {"omega": 6.0}  # the paper's 6e-3

    def __init__(
        self, choice: ScaledAdapters, trunk: nn.Module, sites: list[str], tasks: int
    ) -> None:
        super().__init__()
        self.choice, self.names, self._norms = choice, sites, norms(trunk, sites)
        S = self.sources = choice.sources or tasks
        self.D, self.c, self.U, self.e = bottlenecks(trunk, sites, S, choice.reduction)
        self.omega = nn.ParameterDict()
        for site in sites:
            if self._scale(site) not in self.omega:
                size = sides_at(trunk, site)[0] if choice.shape == "vector" else 1
                self.omega[self._scale(site)] = nn.Parameter(self._rows(tasks, size))
        for frozen in self.adapters:
            frozen.requires_grad_(False)
        self._mixed: dict[str, tuple[Tensor, Tensor]] = {}

    @property
    def adapters(self) -> Weights:
        """The sources' adapters; `adapter.take` fills them."""
        return self.D, self.c, self.U, self.e

    def points(self) -> dict[str, Point]:
        """At each site: the weighed sum of all sources."""
        return placed(self.names, self._norms, self._change)

    def begin(self, route: Route) -> None:
        """omega U and omega e of the present tasks at all sites."""
        kept = {
            name: dropout(route.chosen(omega), self.choice.dropout, self.training)
            for name, omega in self.omega.items()
        }
        for site in self.names:
            self._mixed[site] = self._folded(site, kept[self._scale(site)])

    def _folded(self, site: str, omega: Tensor) -> tuple[Tensor, Tensor]:
        """[present source*bottleneck dim] and [present dim]; omega [present source dim or 1]."""
        U = (omega.unsqueeze(2) * self.U[key(site)]).flatten(1, 2)
        return U, (omega * self.e[key(site)]).sum(1)

    def _change(self, site: str, y: Tensor, h: Tensor, route: Route) -> Tensor:
        here = Route(route.tasks, route.rows, route.starts)  # the present tasks, counted
        U, e = self._mixed[site]
        D, c = (p[key(site)].flatten(0, 1) for p in (self.D, self.c))
        z = torch.relu(linear(together(h, here), D, c))  # [group row source*bottleneck]
        own = of_groups(e, here, y).unsqueeze(1)
        return up_((together(y, here) + own).view(y.shape), z, U, here)

    def end(self) -> None:
        self._mixed.clear()

    def add(self, tasks: int) -> None:
        for omega in self.omega.values():
            grow(omega, self._rows(tasks, omega.shape[-1]))

    def fold(self, site: str, task: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """D, c, U, e of one adapter, S times as wide, that does what the task's scales do."""
        U, e = self._folded(site, self.omega[self._scale(site)][task : task + 1])
        return self.D[key(site)].flatten(0, 1), self.c[key(site)].flatten(), U[0], e[0]

    def contributions(self) -> Tensor:
        """Mean omega [task source] over sites and numbers: who helps whom."""
        return torch.stack([omega.detach().mean(-1) for omega in self.omega.values()]).mean(0)

    def _scale(self, site: str) -> str:
        return "all" if self.choice.share_layers else key(site)

    def _rows(self, tasks: int, size: int) -> Tensor:
        return 2 / self.sources + SPREAD * torch.randn(tasks, self.sources, size)
