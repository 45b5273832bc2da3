"""Routers: what each token's experts are chosen by.

TokenRouter   logits = W x                  Shazeer et al. 2017, arXiv 1701.06538
TaskRouter    logits = W_t x                Mod-Squad, Chen et al. 2023, arXiv 2212.08066
PromptRouter  logits = W r, r the mean of the first `prompt` tokens (0: of all): every token of an
              example takes the same experts; JiuZhang 2.0, Zhao et al. 2023, arXiv 2306.11027
FixedRouter   a table says which experts a task uses, all alike; SkillNet, Dai et al. 2022,
              arXiv 2205.06126

Symbols: x [entry token dim], entries sorted by task; W [task expert dim], one row for all but
TaskRouter. Mod-Squad starts W at zero, which ties all experts, so that every token picks the first
ones: here W starts at noise of 1e-3.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import linear

from taskgrove.errors import TaskgroveError
from taskgrove.sharing.chosen import Chosen, chosen, top
from taskgrove.sharing.grouped import grouped
from taskgrove.sharing.route import Route

TIES = 1e-3  # the start's noise


def fresh_router(tasks: int, experts: int, dim: int) -> Tensor:
    """W at its start."""
    return torch.randn(tasks, experts, dim) * TIES


def token_logits(x: Tensor, W: Tensor) -> Float[Tensor, "entry token expert"]:
    """One W for all tasks, in full precision."""
    with torch.autocast(x.device.type, enabled=False):
        return linear(x.to(W.dtype), W[0])


def task_logits(x: Tensor, W: Tensor, route: Route) -> Float[Tensor, "entry token expert"]:
    """W_t of each entry's task, in full precision."""
    with torch.autocast(x.device.type, enabled=False):
        return grouped(x.to(W.dtype), W, route)


def prompt_logits(x: Tensor, W: Tensor, prompt: int) -> Float[Tensor, "entry token expert"]:
    """By the mean of the first `prompt` tokens, or of all of them."""
    r = x[:, : prompt or None].mean(1, keepdim=True)  # [entry 1 dim]
    return token_logits(r, W).expand(-1, x.shape[1], -1)


class TokenRouter(nn.Module):
    """Each token by what it holds."""

    def __init__(self, experts: int, dim: int) -> None:
        super().__init__()
        self.W = nn.Parameter(fresh_router(1, experts, dim))

    def forward(self, x: Float[Tensor, "entry token dim"], route: Route) -> Tensor:  # noqa: ARG002
        return token_logits(x, self.W)


class TaskRouter(nn.Module):
    """Each token by what it holds, with weights of its task."""

    def __init__(self, tasks: int, experts: int, dim: int) -> None:
        super().__init__()
        self.W = nn.Parameter(fresh_router(tasks, experts, dim))

    def forward(self, x: Float[Tensor, "entry token dim"], route: Route) -> Tensor:
        return task_logits(x, self.W, route)


class PromptRouter(nn.Module):
    """Each example by its prompt."""

    def __init__(self, experts: int, dim: int, prompt: int = 0) -> None:
        super().__init__()
        self.prompt, self.W = prompt, nn.Parameter(fresh_router(1, experts, dim))

    def forward(self, x: Float[Tensor, "entry token dim"], route: Route) -> Tensor:  # noqa: ARG002
        return prompt_logits(x, self.W, self.prompt)


@dataclass(frozen=True)
class FixedRouter:
    """`table`: the experts of each task. Tasks with fewer than others visit one of theirs again,
    with a gate of 0."""

    table: Sequence[Sequence[int]]
    experts: int

    def __post_init__(self) -> None:
        for task, row in enumerate(self.table):
            beyond = [e for e in row if not 0 <= e < self.experts]
            if not row or beyond or len(set(row)) < len(row):
                raise TaskgroveError(
                    f"task {task} has the experts {list(row)}: give one or more of 0 to"
                    f" {self.experts - 1}, each once"
                )

    def choose(self, tokens: int, route: Route) -> Chosen:
        """The experts of the entries' tokens, each with the same gate."""
        most = max(len(row) for row in self.table)
        padded = [[*row, *[row[0]] * (most - len(row))] for row in self.table]
        gates = [[1 / len(row)] * len(row) + [0.0] * (most - len(row)) for row in self.table]
        return fixed(torch.tensor(padded), torch.tensor(gates), self.experts, tokens, route)


def fixed(
    table: Int[Tensor, "task choice"],
    gates: Float[Tensor, "task choice"],
    experts: int,
    tokens: int,
    route: Route,
) -> Chosen:
    """Each token of an entry visits its task's experts, with its task's gates."""
    task = route.group_of.repeat_interleave(tokens)  # [position]
    mine, share = table.to(task.device)[task], gates.to(task.device)[task]
    probabilities = share.new_zeros(len(task), experts).scatter_add_(1, mine, share)
    return chosen(mine, share, probabilities, probabilities)


__all__ = ["FixedRouter", "PromptRouter", "TaskRouter", "TokenRouter", "fixed", "top"]
