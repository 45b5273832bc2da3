"""MMoE, CGC and PLE: experts that read a trunk's features, mixed for each task by its own gate.

MMoE: "Modeling Task Relationships in Multi-task Learning with Multi-gate Mixture-of-Experts", Ma et
al., KDD 2018, https://dl.acm.org/doi/10.1145/3219819.3220007. CGC and PLE: "Progressive Layered
Extraction", Tang et al., RecSys 2020, https://dl.acm.org/doi/10.1145/3383313.3412236.

    MMoE    y_t = sum_i softmax(G_t x)_i f_i(x)            f_i(x) = relu(W_i x + b_i), all shared
    CGC     the sum runs over the shared experts and those of the task's own
    PLE     levels of CGC: level l gives a task's state x_t and a common state x_s,
            x_t' = CGC_t(x_t; f_own(x_t), f_shared(x_s)),   x_s' = the same under a common gate

Symbols: x [entry dim] features, y [entry dim]; W shared [expert dim dim], own [task own dim dim];
gates [task expert dim], of the state that a sum replaces; MMoE is `own` 0, CGC one level.
Differs from the papers: experts end at the trunk's width, since heads stand on it; a level's common
state reads the shared experts and those of the row's own task, not of all tasks, so that an absent
task's experts do not move. Usually the trunk trains too (`methods/features_experts`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, relu

from taskgrove.errors import TaskgroveError
from taskgrove.sharing.choice import Parts, Point
from taskgrove.sharing.grouped import grouped
from taskgrove.sharing.route import Route
from taskgrove.sharing.stacked import grow


@dataclass(frozen=True)
class MMoE:
    """Settings, a line each."""

    shared: int = 4  # experts of all tasks
    own: int = 0  # experts of each task: more than none makes it CGC
    levels: int = 1  # more than one makes it PLE

    about: ClassVar[str] = "experts on features, a gate a task (Ma et al. 2018; PLE, Tang 2020)"
    starts_at_base: ClassVar[bool] = False

    def sites(self, trunk: nn.Module) -> list[str]:
        """The trunk itself, whose output is the features."""
        return [""] if hasattr(trunk, "width") else []

    def parts(self, trunk: nn.Module, sites: list[str], tasks: int) -> "MMoEParts":  # noqa: ARG002
        """Raises TaskgroveError where there is nothing to mix."""
        if self.shared < 1 or self.own < 0 or self.levels < 1:
            raise TaskgroveError(f"{self}: give one or more shared experts and levels")
        width: Any = trunk.width
        return MMoEParts(self, width, tasks)


class MMoEParts(Parts):
    """The levels' experts and gates."""

    stacked: ClassVar[frozenset[str]] = frozenset({"own_W", "own_b", "gate"})

    def __init__(self, choice: MMoE, dim: int, tasks: int) -> None:
        super().__init__()
        self.choice, n = choice, choice.shared + choice.own
        levels = range(choice.levels)
        self.W = nn.ParameterList(fresh(choice.shared, dim, dim) for _ in levels)
        self.b = nn.ParameterList(torch.zeros(choice.shared, dim) for _ in levels)
        self.gate = nn.ParameterList(torch.zeros(tasks, n, dim) for _ in levels)
        # the common state of all levels but the last, which no head reads
        self.common = nn.ParameterList(torch.zeros(n, dim) for _ in levels[1:])
        self.own_W, self.own_b = nn.ParameterList(), nn.ParameterList()
        for _ in levels if choice.own else ():
            self.own_W.append(fresh(tasks, choice.own * dim, dim))
            self.own_b.append(nn.Parameter(torch.zeros(tasks, choice.own * dim)))

    def points(self) -> Mapping[str, Point]:
        """After the trunk."""
        return {"": Point("after", self._mix)}

    def add(self, tasks: int) -> None:
        for gate in self.gate:
            grow(gate, torch.zeros(tasks, *gate.shape[1:]))
        for W, b in zip(self.own_W, self.own_b, strict=True):
            grow(W, fresh(tasks, *W.shape[1:]).data)
            grow(b, torch.zeros(tasks, *b.shape[1:]))

    def _mix(self, _: object, features: Tensor, route: Route) -> Tensor:
        own = common = features  # [entry dim], the states x_t and x_s
        for level, gate in enumerate(self.gate):
            f = self._experts(level, own, common, route)  # [entry expert dim]
            if level < len(self.common):
                common = summed(linear(common, self.common[level]), f)
            own = summed(grouped(own, gate, route), f)
        return own

    def _experts(self, level: int, own: Tensor, common: Tensor, route: Route) -> Tensor:
        W, b = self.W[level], self.b[level]
        count, dim = b.shape
        shared = linear(common, W.flatten(0, 1), b.flatten()).view(-1, count, dim)
        if not self.choice.own:
            return relu(shared)
        mine = grouped(own, self.own_W[level], route, self.own_b[level])
        return relu(torch.cat([shared, mine.view(-1, self.choice.own, dim)], 1))


def summed(logits: Tensor, f: Tensor) -> Tensor:
    """Experts f [entry expert dim] by the softmax of their logits."""
    gates = logits.softmax(-1).to(f.dtype)
    return torch.bmm(gates.unsqueeze(1), f).squeeze(1)


def fresh(first: int, out: int, dim: int) -> nn.Parameter:
    """Weights [first out dim], each as a linear layer starts."""
    return nn.Parameter(torch.empty(first, out, dim).uniform_(-(dim**-0.5), dim**-0.5))
