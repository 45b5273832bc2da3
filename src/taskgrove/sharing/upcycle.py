"""Experts: each feed-forward block of a trunk becomes a few experts, copies of it to begin with.

Sparse Upcycling, Komatsuzaki et al., ICLR 2023, arXiv 2212.05055; routers of their own for tasks
and their loss: Modular Vision Model, Chen et al. 2023, arXiv 2306.17165; prompt routing of copied
blocks: JiuZhang 2.0, Zhao et al., KDD 2023, arXiv 2306.11027.

    y = sum over the k chosen e: g_e W2_e act(W1_e x + b1_e) + b2_e      g renormalised: sum 1
    W_e = W + noise std(W) N(0, 1)

Symbols: x [entry token dim]; W1 [expert hidden dim], W2 [expert dim hidden], shared by all tasks;
router [task expert dim], a task's own. Without noise all experts are equal, so the start is the
base up to rounding; but equal experts stay equal where gates are soft, so there is some by default.
Differs: nothing is dropped where an expert is full. Shares of experts include padding, since a
block does not see the mask. Where a trunk has no such block (see `feed_forward`), it says so.
Cost a token: k blocks instead of one; parameters: `experts` times the blocks.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from taskgrove.errors import TaskgroveError
from taskgrove.sharing.choice import Parts, Point
from taskgrove.sharing.chosen import Chosen, top
from taskgrove.sharing.feed_forward import Between, FeedForward, Stack, feed_forwards, layer
from taskgrove.sharing.lora import key
from taskgrove.sharing.route import Route
from taskgrove.sharing.route_losses import (
    blended,
    mutual_information,
    shares,
    switch_balance,
)
from taskgrove.sharing.routers import fresh_router, prompt_logits, task_logits, token_logits
from taskgrove.sharing.stacked import grow


@dataclass(frozen=True)
class Experts:
    """Settings, a line each."""

    experts: int = 4
    active: int = 2  # k
    router: Literal["task", "token", "prompt"] = "task"  # see `routers`
    prompt: int = 0  # leading tokens of the prompt; 0: the whole input
    loss: Literal["mutual_information", "switch_balance", "none"] = "mutual_information"
    weight: float = 0.005  # of the loss, a block
    decay: float = 0.95  # of the running shares
    noise: float = 0.01  # of the copies, as a share of their spread

    about: ClassVar[str] = (
        "feed-forward blocks copied to experts, a router a task (Chen et al. 2023)"
    )
    starts_at_base: ClassVar[bool] = False

    def sites(self, trunk: nn.Module) -> list[str]:
        """The last layers of all feed-forward blocks."""
        return [block.down for block in feed_forwards(trunk)]

    def parts(self, trunk: nn.Module, sites: list[str], tasks: int) -> "ExpertsParts":
        """Raises TaskgroveError where more are active than there are."""
        if not 1 <= self.active <= self.experts:
            raise TaskgroveError(
                f"{self.active} active of {self.experts} experts: give 1 to {self.experts}"
            )
        return ExpertsParts(self, trunk, sites, tasks)


class ExpertsParts(Parts):
    """Stacked copies of the blocks' layers, and the routers."""

    stacked: ClassVar[frozenset[str]] = frozenset({"router"})

    def __init__(self, choice: Experts, trunk: nn.Module, sites: list[str], tasks: int) -> None:
        super().__init__()
        self.choice, self.losses = choice, []
        self.blocks = [block for block in feed_forwards(trunk) if block.down in sites]
        self.W, self.b, self.router = nn.ParameterDict(), nn.ParameterDict(), nn.ParameterDict()
        rows = tasks if choice.router == "task" else 1
        for block in self.blocks:
            for name in (*block.ups, block.down):
                linear = layer(trunk, name)
                self.W[key(name)] = copies(linear.weight, choice.experts, choice.noise)
                if linear.bias is not None:
                    self.b[key(name)] = copies(linear.bias, choice.experts, 0.0)
            self.router[key(block.down)] = nn.Parameter(
                fresh_router(rows, choice.experts, block.dim)
            )
        even = torch.full((len(self.blocks), tasks, choice.experts), 1 / choice.experts)
        self.register_buffer("use", even)  # [block task expert], running shares
        self.between = Between(self.blocks, self._choose, self._stack)

    def points(self) -> Mapping[str, Point]:
        """In place of each block's layers."""
        return self.between.points()

    def begin(self, route: Route) -> None:  # noqa: ARG002
        self.losses = []

    def end(self) -> None:
        self.between.forget()

    def loss(self) -> Tensor | None:
        return torch.stack(self.losses).sum() * self.choice.weight if self.losses else None

    def add(self, tasks: int) -> None:
        for router in self.router.values():
            if self.choice.router == "task":
                grow(router, fresh_router(tasks, *router.shape[1:]))
        even = torch.full_like(self.use[:, :1], 1 / self.choice.experts)
        self.use = torch.cat([self.use, even.expand(-1, tasks, -1)], 1)

    def _choose(self, n: int, x: Tensor, route: Route) -> Chosen:
        choice, W = self.choice, self.router[key(self.blocks[n].down)]
        if choice.router == "task":
            logits = task_logits(x, W, route)
        elif choice.router == "token":
            logits = token_logits(x, W)
        else:
            logits = prompt_logits(x, W, choice.prompt)
        chosen = top(logits.flatten(0, 1), choice.active, renormalise=True)
        if self.training and choice.loss != "none":
            self.losses.append(self._loss(n, chosen, route))
        return chosen

    def _loss(self, n: int, chosen: Chosen, route: Route) -> Tensor:
        fresh = shares(chosen.probabilities, route)
        P = blended(self.use[n], fresh, route.places, self.choice.decay)
        self.use[n] = P.detach()
        if self.choice.loss == "switch_balance":
            return switch_balance(chosen)
        return -mutual_information(P)

    def _stack(self, name: str) -> Stack:
        return self.W[key(name)], self.b.get(key(name))


def copies(weight: Tensor, count: int, noise: float) -> nn.Parameter:
    """A weight `count` times, each copy with noise of its own."""
    each = weight.detach().unsqueeze(0).repeat(count, *[1] * weight.ndim)
    spread = weight.detach().std() * noise if noise else 0.0
    return nn.Parameter(each + torch.randn_like(each) * spread if noise else each)


def usage(parts: ExpertsParts) -> dict[str, Tensor]:
    """{block: shares [task expert]} as met in training."""
    return {block.down: parts.use[n] for n, block in enumerate(parts.blocks)}


__all__ = ["Experts", "ExpertsParts", "FeedForward", "copies", "usage"]
