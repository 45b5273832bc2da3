"""LoRA: a low-rank change of each linear layer for each task, all tasks in one tensor a site.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022, arXiv 2106.09685;
scaling by sqrt(r) from Kalajdzievski, "A Rank Stabilization Scaling Factor for Fine-Tuning with
LoRA", 2023, arXiv 2312.03732.

    y = W x + s B_t^T A_t x       s = alpha / r, or alpha / sqrt(r) where `stabilised`

Symbols: x [entry ... dim]; A [task rank dim], uniform within sqrt(6 / ((1 + 5) dim)) as in the
authors' code; B [task rank out], zeros, so the start is the base model; W frozen.
Differs from the paper: nothing in the mathematics. Sites that read the same input (query, key,
value) go down in one product. `shared`: one adapter for all tasks.
Cost a token and site: r (dim + out) products, whatever the number of tasks in the batch.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout

from taskgrove.errors import TaskgroveError
from taskgrove.sharing.choice import Parts, Point, linears, sides_at
from taskgrove.sharing.low_rank import down, up_
from taskgrove.sharing.route import Route
from taskgrove.sharing.stacked import grow

SIBLINGS = (  # layers that read one input, by the names that libraries give them
    {"query", "key", "value"}, {"q_proj", "k_proj", "v_proj"}, {"q", "k", "v"},
    {"q_lin", "k_lin", "v_lin"}, {"gate_proj", "up_proj"}, {"wi_0", "wi_1"}, {"w1", "w3"},
)  # fmt: skip


@dataclass(frozen=True)
class LoRA:
    """Settings, a line each."""

    rank: int = 8
    alpha: float = 16.0
    stabilised: bool = False  # divide alpha by sqrt(rank), not by rank
    dropout: float = 0.0  # on the input of A, in training
    shared: bool = False  # one adapter for all tasks

    about: ClassVar[str] = "a low-rank change of each linear layer a task (Hu et al. 2022)"
    starts_at_base: ClassVar[bool] = True

    @property
    def scale(self) -> float:
        """s."""
        return self.alpha / (math.sqrt(self.rank) if self.stabilised else self.rank)

    def sites(self, trunk: nn.Module) -> list[str]:
        """All linear layers that the rank fits."""
        return linears(trunk, self.rank)

    def parts(self, trunk: nn.Module, sites: list[str], tasks: int) -> "LoRAParts":
        """Raises TaskgroveError where the rank is larger than a layer."""
        return LoRAParts(self, trunk, sites, tasks)


class LoRAParts(Parts):
    """A and B of all tasks at all sites."""

    stacked: ClassVar[frozenset[str]] = frozenset({"A", "B"})

    def __init__(self, choice: LoRA, trunk: nn.Module, sites: list[str], tasks: int) -> None:
        super().__init__()
        self.choice, self.inputs = choice, Inputs()
        slots = 1 if choice.shared else tasks
        self.teams = teams(trunk, sites)
        self.A, self.B = nn.ParameterList(), nn.ParameterDict()
        for team in self.teams:
            dim = sides_at(trunk, team[0])[1]
            for site in team:
                fits(trunk, site, choice.rank)
                out = sides_at(trunk, site)[0]
                self.B[key(site)] = nn.Parameter(torch.zeros(slots, choice.rank, out))
            self.A.append(nn.Parameter(fresh(slots, choice.rank * len(team), dim)))

    def points(self) -> dict[str, Point]:
        """After each site: its low-rank change, in place."""
        return {
            site: Point("after", partial(self._change, n, place, site))
            for n, team in enumerate(self.teams)
            for place, site in enumerate(team)
        }

    def _change(
        self, team: int, place: int, site: str, x: Tensor, y: Tensor, route: Route
    ) -> Tensor:
        if self.choice.shared:
            route = Route((), route.rows, (0, route.starts[-1]))
        r = self.choice.rank
        h, start = self.inputs.once(team, place, x, lambda: self._down(team, place, x, route))
        if h.shape[-1] > r:
            h = h[..., (place - start) * r : (place - start + 1) * r]
        return up_(y, h, self.B[key(site)], route, self.choice.scale)

    def _down(self, team: int, place: int, x: Tensor, route: Route) -> Tensor:
        """x A^T of a site and of those after it in its team."""
        rate = self.choice.dropout
        x = dropout(x, rate, self.training) if rate else x
        A = self.A[team]
        return down(x, A[:, place * self.choice.rank :] if place else A, route)

    def of_task(self, site: str, number: int) -> tuple[Tensor, Tensor]:
        """Views of A [rank dim] and B [rank out] of a task at a site."""
        number = 0 if self.choice.shared else number
        team, place = next((n, t.index(site)) for n, t in enumerate(self.teams) if site in t)
        rows = slice(place * self.choice.rank, (place + 1) * self.choice.rank)
        return self.A[team][number, rows], self.B[key(site)][number]

    def end(self) -> None:
        self.inputs.forget()

    def add(self, tasks: int) -> None:
        if self.choice.shared:
            return
        for A in self.A:
            grow(A, fresh(tasks, *A.shape[1:]))
        for B in self.B.values():
            grow(B, torch.zeros(tasks, *B.shape[1:]))


class Inputs:
    """What was computed from an input that several sites read one after the other."""

    def __init__(self) -> None:
        self._kept: dict[int, tuple[Tensor, Tensor, int]] = {}

    def once(
        self, team: int, place: int, x: Tensor, compute: Callable[[], Tensor]
    ) -> tuple[Tensor, int]:
        """What was computed for this very tensor, and the first place that it serves."""
        kept = self._kept.get(team)
        if kept is None or kept[0] is not x:
            kept = self._kept[team] = x, compute(), place
        return kept[1:]

    def forget(self) -> None:
        """Drops what is kept."""
        self._kept.clear()


def teams(trunk: nn.Module, sites: list[str]) -> list[list[str]]:
    """Sites of one parent that read one tensor, as their names tell; others stand alone."""
    found: dict[tuple[str, int, str], list[str]] = {}
    for site in sites:
        parent, _, name = site.rpartition(".")
        team = next((str(n) for n, names in enumerate(SIBLINGS) if name in names), name)
        found.setdefault((parent, sides_at(trunk, site)[1], team), []).append(site)
    return list(found.values())


def fits(trunk: nn.Module, site: str, rank: int) -> None:
    """Raises TaskgroveError unless 1 <= rank <= both sides of the layer."""
    out, dim = sides_at(trunk, site)
    most = min(out, dim)
    if not 1 <= rank <= most:
        raise TaskgroveError(
            f'rank {rank} does not fit "{site}" ({dim} to {out}):'
            f" give 1 to {most}, or leave the layer out by a pattern"
        )


def fresh(tasks: int, rank: int, dim: int) -> Tensor:
    """A's start: uniform as of a linear layer with leaky slope sqrt(5)."""
    edge = 1 / math.sqrt(dim)
    return torch.empty(tasks, rank, dim).uniform_(-edge, edge)


def key(site: str) -> str:
    """A site as the name of a parameter, which holds no dots."""
    return site.replace(".", "/")
