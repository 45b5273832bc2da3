"""AdapterFusion: for each task, attention over the frozen adapters of all tasks.

Pfeiffer, Kamath, Rueckle, Cho, Gurevych, "AdapterFusion: Non-Destructive Task Composition for
Transfer Learning", EACL 2021, arXiv 2005.00247.

    o_s = U_s^T relu(D_s h + c_s) + e_s
    a = softmax_s( (Q_t h) . (K_t o_s) );   n( sum_s a_s V_t o_s + f + x )      what the block gives

Symbols: f, x, h, n as in adapter, which says where blocks have no n; [entry ... dim]; Q, K, V [task
dim dim] at each site; V starts at the identity, Q and K as linear layers do.
Differs from the paper: Q, K and V without biases; V decays towards 0 as all matrices do. It is here
to be compared with: three dim x dim matrices a task and site, and S outputs a token.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from taskgrove.sharing.adapter import Weights, bottlenecks, norms, placed
from taskgrove.sharing.choice import Parts, Point, contractions, sides_at
from taskgrove.sharing.lora import key
from taskgrove.sharing.low_rank import of_groups, together
from taskgrove.sharing.route import Route
from taskgrove.sharing.stacked import grow


@dataclass(frozen=True)
class AdapterFusion:
    """Settings, a line each."""

    reduction: int = 16
    sources: int | None = None  # None: as many as tasks

    about: ClassVar[str] = "attention over all tasks' adapters (Pfeiffer et al. 2021)"
    starts_at_base: ClassVar[bool] = True  # while the sources are untrained

    def sites(self, trunk: nn.Module) -> list[str]:
        """The ends of feed-forward blocks, as of adapters."""
        return contractions(trunk)

    def parts(self, trunk: nn.Module, sites: list[str], tasks: int) -> "FusionParts":
        """Attention of all tasks over `sources` adapters."""
        return FusionParts(self, trunk, sites, tasks)


class FusionParts(Parts):
    """The sources' adapters at all sites, frozen, and every task's Q, K and V."""

    stacked: ClassVar[frozenset[str]] = frozenset({"Q", "K", "V"})
    rates: ClassVar[Mapping[str, float]] = dict.fromkeys("QKV", 0.2)  # they do not bear more

    def __init__(
        self, choice: AdapterFusion, trunk: nn.Module, sites: list[str], tasks: int
    ) -> None:
        super().__init__()
        self.names, self._norms, S = sites, norms(trunk, sites), choice.sources or tasks
        self.D, self.c, self.U, self.e = bottlenecks(trunk, sites, S, choice.reduction)
        self.Q, self.K, self.V = nn.ParameterDict(), nn.ParameterDict(), nn.ParameterDict()
        for site in sites:
            dim, name = sides_at(trunk, site)[0], key(site)
            self.Q[name] = nn.Parameter(square(tasks, dim))
            self.K[name] = nn.Parameter(square(tasks, dim))
            self.V[name] = nn.Parameter(torch.eye(dim).repeat(tasks, 1, 1))
        for frozen in self.adapters:
            frozen.requires_grad_(False)

    @property
    def adapters(self) -> Weights:
        """The sources' adapters; `adapter.take` fills them."""
        return self.D, self.c, self.U, self.e

    def points(self) -> dict[str, Point]:
        """At each site: what attention takes from the sources."""
        return placed(self.names, self._norms, self._change)

    def _change(self, site: str, y: Tensor, h: Tensor, route: Route) -> Tensor:
        name, rows = key(site), together(h, route)  # [group row dim]
        S, width, _ = self.D[name].shape
        z = torch.relu(linear(rows, self.D[name].flatten(0, 1), self.c[name].flatten()))
        o = torch.einsum("grsw,swd->grsd", z.unflatten(-1, (S, width)), self.U[name])
        o = o + self.e[name]  # [group row source dim]
        Q, K, V = (of_groups(W[name], route, h) for W in (self.Q, self.K, self.V))
        # (Q h) . (K o) = (K^T Q h) . o, and sum_s a V o = V sum_s a o: S products less
        asked = torch.bmm(torch.bmm(rows, Q.transpose(1, 2)), K)  # [group row dim]
        a = torch.einsum("grd,grsd->grs", asked, o).softmax(-1)
        taken = torch.bmm(torch.einsum("grs,grsd->grd", a, o), V.transpose(1, 2))
        return y + taken.view(y.shape).to(y.dtype)

    def add(self, tasks: int) -> None:
        for W in (*self.Q.values(), *self.K.values()):
            grow(W, square(tasks, W.shape[-1]))
        for V in self.V.values():
            grow(V, torch.eye(V.shape[-1]).repeat(tasks, 1, 1))


def square(tasks: int, dim: int) -> Tensor:
    """A square matrix a task, as a linear layer starts."""
    edge = 1 / math.sqrt(dim)
    return torch.empty(tasks, dim, dim).uniform_(-edge, edge)
