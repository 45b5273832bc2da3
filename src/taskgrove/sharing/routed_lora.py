"""RoutedLoRA: an inventory of shared LoRA skills, mixed for each task by a learned router.

Page-Caccia et al., "Multi-Head Adapter Routing for Cross-Task Generalization", NeurIPS 2023, arXiv
2211.03831 (MHR); with one head it is Polytropon (Ponti et al. 2023, arXiv 2202.13914).

    A_t[h] = sum_s w_{t,h,s} A_s[h],   B_t[h] = sum_s w_{t,h,s} B_s[h]
    y = W x + (alpha / r) B_t^T A_t x

Symbols: A [skill rank dim], B [skill rank out]; h one of H equal blocks of dim, and of out; w the
router's weights (see task_router). Parameters are mixed, not outputs: once a batch for its tasks.
A uniform within gain / sqrt(dim), gain that of leaky ReLU at sqrt(5); B zeros, so the start is the
base model. Differs from the paper: nothing; layers that do not fall into H blocks are left out.
Cost: as LoRA of rank r, and S r (dim + out) products a present task; S r (dim + out) numbers for
all tasks, H S more for each.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from taskgrove.errors import TaskgroveError
from taskgrove.sharing.choice import Parts, Point, linears, sides_at
from taskgrove.sharing.lora import fits, key
from taskgrove.sharing.low_rank import down, up_
from taskgrove.sharing.route import Route
from taskgrove.sharing.task_router import Kind, TaskRouter

GAIN = math.sqrt(2 / (1 + 5))


@dataclass(frozen=True)
class MHR:
    """Settings, a line each."""

    skills: int = 4
    heads: int = 8
    rank: int = 4
    alpha: float = 8.0
    router: Kind = "sigmoid"
    coarse: bool = False  # one router for all sites, not one each

    about: ClassVar[str] = "LoRA skills mixed a task and block of layers (Page-Caccia et al. 2023)"
    starts_at_base: ClassVar[bool] = True

    def sites(self, trunk: nn.Module) -> list[str]:
        """Linear layers that the rank fits and whose sides fall into the heads."""
        if self.heads < 1 or self.skills < 1:
            raise TaskgroveError(
                f"{self.skills} skills and {self.heads} heads: give 1 or more of each"
            )
        fit = linears(trunk, self.rank)
        return [n for n in fit if all(side % self.heads == 0 for side in sides_at(trunk, n))]

    def parts(self, trunk: nn.Module, sites: list[str], tasks: int) -> "RoutedLoRAParts":
        """Raises TaskgroveError where a layer does not fall into the heads."""
        return RoutedLoRAParts(self, trunk, sites, tasks)


@dataclass(frozen=True)
class Poly:
    """Polytropon: MHR with one head."""

    skills: int = 4
    rank: int = 4
    alpha: float = 8.0
    router: Kind = "sigmoid"
    coarse: bool = False

    about: ClassVar[str] = "LoRA skills mixed for each task (Ponti et al. 2023)"
    starts_at_base: ClassVar[bool] = True

    def sites(self, trunk: nn.Module) -> list[str]:
        """Linear layers that the rank fits."""
        return linears(trunk, self.rank)

    def parts(self, trunk: nn.Module, sites: list[str], tasks: int) -> "RoutedLoRAParts":
        """The parts of MHR with one head."""
        one = MHR(self.skills, 1, self.rank, self.alpha, self.router, self.coarse)
        return RoutedLoRAParts(one, trunk, sites, tasks)


class RoutedLoRAParts(Parts):
    """The skills of all sites, and the router."""

    stacked: ClassVar[frozenset[str]] = frozenset({"router"})
    undecayed: ClassVar[frozenset[str]] = frozenset({"router"})
    rates: ClassVar[Mapping[str, float]] = {"router": 100.0}  # 0.1 where skills learn at 1e-3

    def __init__(self, choice: MHR, trunk: nn.Module, sites: list[str], tasks: int) -> None:
        super().__init__()
        self.choice, self.names = choice, sites
        self.A, self.B = nn.ParameterDict(), nn.ParameterDict()
        for site in sites:
            fits(trunk, site, choice.rank)
            out, dim = sides_at(trunk, site)
            if dim % choice.heads or out % choice.heads:
                raise TaskgroveError(
                    f'"{site}" ({dim} to {out}) does not fall into {choice.heads} heads: give a'
                    " number that divides both"
                )
            edge = GAIN / math.sqrt(dim)
            A = torch.empty(choice.skills, choice.rank, dim).uniform_(-edge, edge)
            self.A[key(site)] = nn.Parameter(A)
            self.B[key(site)] = nn.Parameter(torch.zeros(choice.skills, choice.rank, out))
        routers = 1 if choice.coarse else len(sites)
        self.router = TaskRouter(tasks, routers, choice.heads, choice.skills, choice.router)
        self._mixed: dict[str, tuple[Tensor, Tensor]] = {}
        self._route: Route | None = None

    def points(self) -> dict[str, Point]:
        """After each site: its low-rank change, in place."""
        return {site: Point("after", partial(self._change, site)) for site in self.names}

    def begin(self, route: Route) -> None:
        """A_t and B_t of the present tasks at all sites."""
        w = self.router(route)  # [present site head skill]
        for n, site in enumerate(self.names):
            mine = w[:, 0 if self.choice.coarse else n]
            A, B = (mixed(mine, skills[key(site)]) for skills in (self.A, self.B))
            self._mixed[site] = A * (self.choice.alpha / self.choice.rank), B
        counted = tuple(range(len(route.groups)))
        self._route = Route(route.tasks, route.rows, route.starts, counted)

    def _change(self, site: str, x: Tensor, y: Tensor, route: Route) -> Tensor:  # noqa: ARG002
        here: Any = self._route
        A, B = self._mixed[site]
        return up_(y, down(x, A, here), B, here)

    def end(self) -> None:
        self._mixed.clear()
        self._route = None

    def add(self, tasks: int) -> None:
        self.router.add(tasks)

    def of_task(self, site: str, number: int) -> tuple[Tensor, Tensor]:
        """A_t [rank dim] and B_t [rank out] at a site: a plain LoRA, its scale alpha / r."""
        place = torch.tensor([number], device=self.router.Z.device)
        w = self.router.weights(self.router.Z[place], place)
        mine = w[:, 0 if self.choice.coarse else self.names.index(site)]
        A, B = (mixed(mine, skills[key(site)])[0] for skills in (self.A, self.B))
        return A, B


def mixed(w: Tensor, skills: Tensor) -> Tensor:
    """sum_s w_{t,h,s} skills_s[h] as [task rank dim]; w [task head skill]."""
    blocks = skills.unflatten(2, (w.shape[1], -1))  # [skill rank head block]
    return torch.einsum("ths,srhd->trhd", w.to(skills.dtype), blocks).flatten(2)
