"""grouped(x, W, route): each entry times the weights of its own group, at the cost of one group.

    y_e = W_g(e) x_e + b_g(e)

Symbols: x [entry ... dim], entries sorted by group; W [group out dim], all groups, of which a
batch may lack some; b [group out]; g(e) the group of entry e; y [entry ... out].
Ways, equal in result, chosen by shape: `one` group is a linear layer; `even` groups are one batched
product; `gather` copies small weights to each entry; `wide` multiplies by all groups' few outputs
and picks; `fused` is torch's grouped_mm on an accelerator in half precision; else a `loop` of
products, whose backward writes each group's gradient into its place, so nothing costs groups
squared.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from taskgrove.sharing.loop import Loop
from taskgrove.sharing.route import Route

COPIED = 0.5  # weights a way may copy, as a share of the products' reads and writes
WIDE = 64  # outputs of all groups together below which all are computed


def grouped(
    x: Float[Tensor, "entry *token dim"],
    W: Float[Tensor, "group out dim"],
    route: Route,
    b: Float[Tensor, "group out"] | None = None,
    way: str | None = None,
) -> Float[Tensor, "entry *token out"]:
    """y. Cost: entry x token x out x dim products whatever the number of groups."""
    if not len(route.groups) or not len(x):
        return x.new_zeros(*x.shape[:-1], W.shape[1])
    way = way or way_of(x, W, route)
    if way == "loop":  # adds b as it goes
        return _loop(x, W, route, b)
    y = WAYS[way](x, W, route)
    if b is None:
        return y
    rows = functional.embedding(route.group_of, b.to(y.dtype))  # [entry out]
    return y + rows.view(len(x), *[1] * (x.ndim - 2), -1)


def way_of(x: Tensor, W: Tensor, route: Route) -> str:
    """The cheapest way by shape."""
    out, dim = W.shape[1:]
    if len(route.groups) == 1:
        return "one"
    if route.even is not None:
        return "even"
    if x.is_cuda and x.dtype == torch.bfloat16 and hasattr(functional, "grouped_mm"):
        return "fused"
    if len(W) * out <= WIDE:
        return "wide"
    tokens = x.numel() // dim
    copied = len(x) * out * dim
    return "gather" if copied <= COPIED * (tokens * (out + dim) + copied / 4) else "loop"


def _one(x: Tensor, W: Tensor, route: Route) -> Tensor:
    return functional.linear(x, W[route.groups[0]])


def _even(x: Tensor, W: Tensor, route: Route) -> Tensor:
    together = x.reshape(len(route.groups), -1, x.shape[-1])  # [group row dim]
    y = torch.bmm(together, _as(route.chosen(W), x).transpose(1, 2))
    return y.view(*x.shape[:-1], -1)


def _gather(x: Tensor, W: Tensor, route: Route) -> Tensor:
    own = _as(W, x)[route.group_of]  # [entry out dim]
    y = torch.bmm(x.reshape(len(x), -1, x.shape[-1]), own.transpose(1, 2))
    return y.view(*x.shape[:-1], -1)


def _wide(x: Tensor, W: Tensor, route: Route) -> Tensor:
    y = functional.linear(x, W.flatten(0, 1)).unflatten(-1, W.shape[:2])  # [entry ... group out]
    picked = route.group_of.view(-1, *[1] * (y.ndim - 1)).expand(*y.shape[:-2], 1, y.shape[-1])
    return y.gather(-2, picked).squeeze(-2)


def _fused(x: Tensor, W: Tensor, route: Route) -> Tensor:
    each = x[0].numel() // x.shape[-1]  # tokens of an entry
    ends = torch.tensor(route.starts[1:], dtype=torch.int32, device=x.device) * each
    x = _cast(x)
    weights = route.chosen(W).to(x.dtype).transpose(1, 2)  # [group dim out]
    y = functional.grouped_mm(x.reshape(-1, x.shape[-1]), weights, offs=ends)
    return y.view(*x.shape[:-1], -1)


def _loop(x: Tensor, W: Tensor, route: Route, b: Tensor | None = None) -> Tensor:
    x = _cast(x)
    b = None if b is None else b.to(x.dtype)
    flat, each = x.reshape(-1, x.shape[-1]), x[0].numel() // x.shape[-1]
    starts = tuple(start * each for start in route.starts)
    y: Tensor = Loop.apply(flat, W.to(x.dtype), b, starts, route.groups)  # pyright: ignore
    return y.view(*x.shape[:-1], -1)


def _cast(x: Tensor) -> Tensor:
    """x as autocast would have it, for products that autocast does not know."""
    device = x.device.type
    return x.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else x


def _as(W: Tensor, x: Tensor) -> Tensor:
    """W in the type of x, unless autocast sees to it."""
    return W if torch.is_autocast_enabled(x.device.type) else W.to(x.dtype)


WAYS: dict[str, Callable[[Tensor, Tensor, Route], Tensor]] = {
    "one": lambda x, W, route: _one(x, _as(W, x), route),
    "even": _even,
    "gather": _gather,
    "wide": lambda x, W, route: _wide(x, _as(W, x), route),
    "fused": _fused,
    "loop": _loop,
}
