"""Products group by group: large weights, uneven groups.

    y_e = W_g(e) x_e;  dx_e = W_g(e)^T dy_e;  dW_g = sum over e of group g: dy_e x_e^T

Forward and backward write into one output each, group after group; plain autograd over slices of W
would build a gradient as large as W for each group, which is groups squared.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class Loop(torch.autograd.Function):
    """x [row dim] sorted, W [group out dim], starts and numbers of the present groups."""

    @staticmethod
    def forward(
        x: Tensor, W: Tensor, starts: Sequence[int], numbers: Sequence[int]
    ) -> Tensor:  # [row out]
        y = x.new_empty(len(x), W.shape[1])
        for n, a, b in _spans(starts, numbers):
            torch.mm(x[a:b], W[n].t(), out=y[a:b])
        return y

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG004
        x, W, ctx.starts, ctx.numbers = inputs
        ctx.save_for_backward(x, W)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, W = ctx.saved_tensors
        need = ctx.needs_input_grad
        dx, dW = Back.apply(grads[0], x, W, ctx.starts, ctx.numbers, need[:2])  # pyright: ignore
        return dx if need[0] else None, dW if need[1] else None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> tuple[Tensor, int]:
        found = [Loop.apply(*one) for one in _each(info, in_dims, inputs)]
        return torch.stack(found), 0  # pyright: ignore[reportArgumentType]


class Back(torch.autograd.Function):
    """The two gradients of Loop; a batch of output gradients goes one after the other."""

    @staticmethod
    def forward(
        dy: Tensor,
        x: Tensor,
        W: Tensor,
        starts: Sequence[int],
        numbers: Sequence[int],
        need: Sequence[bool],
    ) -> tuple[Tensor, Tensor]:
        dx = torch.empty_like(x) if need[0] else x.new_empty(0)
        dW = (torch.empty_like if len(numbers) == len(W) else torch.zeros_like)(W)
        dW = dW if need[1] else W.new_empty(0)
        for n, a, b in _spans(starts, numbers):
            if need[0]:
                torch.mm(dy[a:b], W[n], out=dx[a:b])
            if need[1]:
                torch.mm(dy[a:b].t(), x[a:b], out=dW[n])
        return dx, dW

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> None:
        raise NotImplementedError("second derivatives of grouped weights: not offered")

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> tuple[Any, tuple[int, int]]:
        found = [Back.apply(*one) for one in _each(info, in_dims, inputs)]
        dx, dW = zip(*found, strict=True)  # pyright: ignore
        return (torch.stack(dx), torch.stack(dW)), (0, 0)


def _spans(starts: Sequence[int], numbers: Sequence[int]) -> list[tuple[int, int, int]]:
    """(group, first row, last row + 1), empty groups too: their gradient is zero."""
    return list(zip(numbers, starts[:-1], starts[1:], strict=True))


def _each(info: Any, dims: tuple[Any, ...], inputs: tuple[Any, ...]) -> list[tuple[Any, ...]]:
    """The inputs of each member of a vmapped batch."""

    def member(n: int) -> tuple[Any, ...]:
        pairs = zip(inputs, dims, strict=True)
        return tuple(v.select(d, n) if isinstance(d, int) else v for v, d in pairs)

    return [member(n) for n in range(info.batch_size)]
