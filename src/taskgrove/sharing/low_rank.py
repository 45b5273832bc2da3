"""Low-rank products of many tasks in one batched product, added in place.

    y_e += (x_e A_g(e)^T) B_g(e)

Symbols: x [entry ... dim]; y [entry ... out]; A [task rank dim]; B [task rank out]; g(e) the task
of entry e. A module's rows may be several to an entry (windows, tokens): its first axis is then a
multiple of the entries, example after example.
"""

import torch
from torch import Tensor

from taskgrove.errors import TaskgroveError
from taskgrove.sharing.route import Route


def down(x: Tensor, A: Tensor, route: Route) -> Tensor:
    """x A^T [group row rank]; [entry row rank] where groups are uneven."""
    own, rows = of_groups(A, route, x), together(x, route)
    if not torch.is_grad_enabled():  # the faster way round, whose gradients would lie turned
        return torch.bmm(own, rows.transpose(1, 2)).transpose(1, 2)
    return torch.bmm(rows, own.transpose(1, 2))


def up_(y: Tensor, h: Tensor, B: Tensor, route: Route, scale: float = 1.0) -> Tensor:
    """y += scale h B, and y; h [group row rank] as `down` gives it."""
    own = of_groups(B, route, y)
    if torch.is_autocast_enabled(y.device.type):
        return y + scale * torch.bmm(h, own).view_as(y).to(y.dtype)
    together(y, route).baddbmm_(h.to(y.dtype), own, alpha=scale)
    return y


def of_groups(W: Tensor, route: Route, like: Tensor) -> Tensor:
    """Weights [group ...], or [entry ...] where groups are uneven, in the type of `like`."""
    even = route.even is not None
    own = route.chosen(W) if even else W.index_select(0, route.group_of)
    return own if torch.is_autocast_enabled(like.device.type) else own.to(like.dtype)


def together(x: Tensor, route: Route) -> Tensor:
    """x [k entry ... dim] as [group row dim], or [entry row dim] where groups are uneven."""
    entries = route.starts[-1]
    if x.ndim < 2 or len(x) % entries:
        raise TaskgroveError(
            f"a module with a task's part got {tuple(x.shape)}, but the batch has {entries}"
            " entries: the first axis must be the batch"
        )
    count = len(route.groups) if route.even is not None else entries
    return x.view(count, -1, x.shape[-1]) if x.is_contiguous() else _copied(x, count)


def _copied(x: Tensor, count: int) -> Tensor:
    return x.reshape(count, -1, x.shape[-1])
