"""batch: what the ways through a step are given, and what they answer."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float64
from torch import Tensor, nn

from taskgrove.balancing.choice import Choice, Statistic

Level = Literal["parameters", "features"]
Reduce = Callable[[Tensor], object]
Part = Callable[[], Sequence[Tensor]]


def unscaled(loss: Tensor) -> Tensor:
    """No loss scaler."""
    return loss


@runtime_checkable
class Bound(Protocol):
    """What the flows read of a Balancer."""

    choice: Choice
    groups: list[list[nn.Parameter]]
    level: Level
    every: int
    watch: int
    weightings: list[Any]
    last: dict[int, float]
    buffers: dict[nn.Parameter, Tensor]


@dataclass(frozen=True)
class Batch:
    """A step's losses in parts, its present tasks and their shares (sum 1)."""

    parts: Sequence[Part]
    tasks: list[int]
    share: Float64[Tensor, " task"]
    number: int
    own: Sequence[nn.Parameter]
    features: Sequence[Tensor]
    scale: Callable[[Tensor], Tensor]
    backward: Callable[[Tensor], object] | None
    all_reduce: Reduce | None

    @cached_property
    def factor(self) -> float:
        """What `scale` multiplies by."""
        return 1.0 if self.scale is unscaled else self.scale(torch.ones(())).item()

    def total(self, weights: Tensor, losses: Sequence[Tensor]) -> Tensor:
        """sum_t w_t L_t, scaled."""
        found = torch.stack(list(losses))
        return self.scale((found * weights.to(found)).sum())

    def statistic(self, losses: Tensor, gramian: Tensor | None = None) -> Statistic:
        """What a weighting may see."""
        return Statistic(torch.tensor(self.tasks), self.share, self.number, losses, gramian)

    def reduced(self, losses: Sequence[Tensor]) -> Tensor:
        """The joined batch's losses, without a graph."""
        found = torch.stack([loss.detach() for loss in losses]).double()
        if self.all_reduce is not None:
            self.all_reduce(found)
        return found.cpu()


@dataclass(frozen=True)
class Balanced:
    """What a step did, over its present tasks; weights of the first group where there are several.

    `gramian` [task task] is there where the step computed it.
    """

    tasks: list[int]
    share: Float64[Tensor, " task"]
    weights: Float64[Tensor, " task"]
    losses: Float64[Tensor, " task"]
    gramian: Float64[Tensor, "task task"] | None = None
    fallback: bool = False


def is_sharded(parameters: Sequence[nn.Parameter]) -> bool:
    """Whether processes hold pieces of these parameters (FSDP); all of them or none."""
    tensor = sys.modules.get("torch.distributed.tensor")  # slow to import, so only if someone did
    found = {
        tensor is not None and isinstance(parameter, tensor.DTensor) for parameter in parameters
    }
    if len(found) > 1:
        raise ValueError(
            "some of the shared parameters are sharded over processes and some are not;"
            " shard all of them, or balance only the sharded ones"
        )
    return found == {True}


def refuse(bound: Bound, batch: Batch) -> None:
    """What no step can do, told before any work."""
    sharded = is_sharded([p for group in bound.groups for p in group])
    if sharded and bound.choice.needs == "rows":
        raise ValueError(
            "methods that choose element by element need whole gradients: they cannot balance"
            " parameters that are sharded over processes; take another method, or DDP"
        )
    if sharded and (batch.backward is None or batch.all_reduce is None):
        raise ValueError(
            "the shared parameters are sharded over processes: give backward= (such as"
            " torch.autograd.backward) and all_reduce=, which averages over processes as FSDP does"
        )
    several = len(bound.groups) > 1 and not (sharded and bound.level == "parameters")
    if batch.backward is not None and (several or bound.choice.needs == "rows"):
        raise ValueError(
            "one ordinary backward pass carries one weight a task: groups, and methods that choose"
            " element by element, cannot go through backward=; leave it out and give all_reduce="
        )
    if len(batch.parts) > 1 and (batch.backward is not None or bound.level == "features"):
        raise ValueError(
            'a batch in parts needs level="parameters" and no backward=: all parts\' gradients are'
            " known before they are weighed"
        )
    if batch.all_reduce is not None and not bound.groups:
        raise ValueError(
            "with all_reduce= name the shared parameters: processes must agree on them"
        )
