"""What a router chose: each position's k experts and their gates; to entries and back.

    spread:   x_e = x_p(e)                       entries e sorted by expert, of position p(e)
    combine:  y_p = sum over the entries e of p: g_e y_e

Symbols: x [position dim]; y [entry dim]; g the gates; places [position choice] of each position's
entries. Both ways go by gathering, also backward: adding rows at their places, which plain autograd
does, costs several times as much.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from taskgrove.sharing.route import Route, routed


@dataclass(frozen=True)
class Chosen:
    """`route`: entries over experts, its weights the gates; `logits`, `probabilities`
    [position expert] before the choice."""

    route: Route
    places: Int[Tensor, "position choice"]
    probabilities: Float[Tensor, "position expert"]
    logits: Float[Tensor, "position expert"]

    @property
    def count(self) -> int:
        """k."""
        return self.places.shape[1]


def top(logits: Float[Tensor, "position expert"], k: int, renormalise: bool = False) -> Chosen:
    """The k experts of highest probability; gates are softmax probabilities, which sum to 1 over
    the chosen where `renormalise`. With k the number of experts this is a dense mixture."""
    logits = logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits
    probabilities = logits.softmax(-1)
    gates, experts = probabilities.topk(k, dim=-1)
    if renormalise:
        gates = gates / gates.sum(-1, keepdim=True)
    return chosen(experts, gates, probabilities, logits)


def chosen(
    experts: Int[Tensor, "position choice"],
    gates: Float[Tensor, "position choice"],
    probabilities: Float[Tensor, "position expert"],
    logits: Float[Tensor, "position expert"],
) -> Chosen:
    """From each position's experts and gates."""
    route = routed(experts, probabilities.shape[1], gates)
    places = route.rows.argsort(stable=True).view(experts.shape)
    return Chosen(route, places, probabilities, logits)


def spread(x: Float[Tensor, "position dim"], chosen: Chosen) -> Float[Tensor, "entry dim"]:
    """Each entry's row."""
    return Spread.apply(x, chosen.route.rows, chosen.places)  # pyright: ignore


def combine(y: Float[Tensor, "entry dim"], chosen: Chosen) -> Float[Tensor, "position dim"]:
    """Each position's entries, summed by their gates."""
    g: Any = chosen.route.weights
    return Combine.apply(y, g.to(y.dtype), chosen.route.rows, chosen.places)  # pyright: ignore


class Spread(torch.autograd.Function):
    """x [position dim] -> [entry dim]."""

    @staticmethod
    def forward(x: Tensor, rows: Tensor, places: Tensor) -> Tensor:  # noqa: ARG004
        return x.index_select(0, rows)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG004
        ctx.save_for_backward(inputs[2])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (places,) = ctx.saved_tensors
        each = grads[0].index_select(0, places.flatten())
        return each.unflatten(0, places.shape).sum(1), None, None


class Combine(torch.autograd.Function):
    """y [entry dim], g [entry] -> [position dim]."""

    @staticmethod
    def forward(y: Tensor, g: Tensor, rows: Tensor, places: Tensor) -> Tensor:  # noqa: ARG004
        own = g.index_select(0, places.flatten()).view(places.shape)  # [position choice]
        return functional.embedding_bag(places, y, mode="sum", per_sample_weights=own)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG004
        ctx.save_for_backward(*inputs[:3])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        y, g, rows = ctx.saved_tensors
        each = grads[0].index_select(0, rows)  # [entry dim]
        return each * g.unsqueeze(1), torch.linalg.vecdot(each, y), None, None
