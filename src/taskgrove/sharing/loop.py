"""Products group by group: large weights, uneven groups.

    y_e = W_g(e) x_e + b_g(e);  dx_e = W_g(e)^T dy_e
    dW_g = sum over e of group g: dy_e x_e^T;  db_g = the same sum of dy_e

Forward and backward write into one output each, group after group; plain autograd over slices of W
would build a gradient as large as W for each group, which is groups squared. A group's gradient
lies in large pages (see `huge`): with many groups that saves a third of a training step.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from taskgrove.sharing.huge import huge


class Loop(torch.autograd.Function):
    """x [row dim] sorted, W [group out dim], b [group out] or None, starts and numbers of the
    present groups."""

    @staticmethod
    def forward(
        x: Tensor, W: Tensor, b: Tensor | None, starts: Sequence[int], numbers: Sequence[int]
    ) -> Tensor:  # [row out]
        y = x.new_empty(len(x), W.shape[1])
        for n, first, end in _spans(starts, numbers):
            if b is None:
                torch.mm(x[first:end], W[n].t(), out=y[first:end])
            else:
                torch.addmm(b[n], x[first:end], W[n].t(), out=y[first:end])
        return y

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG004
        x, W, _, ctx.starts, ctx.numbers = inputs
        ctx.save_for_backward(x, W)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, W = ctx.saved_tensors
        need = ctx.needs_input_grad[:3]
        found = Back.apply(grads[0], x, W, ctx.starts, ctx.numbers, need)
        pairs = zip(found, need, strict=True)  # pyright: ignore[reportArgumentType]
        return *(each if asked else None for each, asked in pairs), None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> tuple[Tensor, int]:
        found = [Loop.apply(*one) for one in _each(info, in_dims, inputs)]
        return torch.stack(found), 0  # pyright: ignore[reportArgumentType]


class Back(torch.autograd.Function):
    """The gradients of Loop; a batch of output gradients goes one after the other."""

    @staticmethod
    def forward(
        dy: Tensor,
        x: Tensor,
        W: Tensor,
        starts: Sequence[int],
        numbers: Sequence[int],
        need: Sequence[bool],
    ) -> tuple[Tensor, Tensor, Tensor]:
        every = len(numbers) == len(W)
        dx = torch.empty_like(x) if need[0] else x.new_empty(0)
        dW = W.new_empty(W.shape if need[1] else 0)
        dW = huge(dW) if every else huge(dW).zero_()
        db = W.new_zeros(W.shape[:2] if need[2] else 0)
        for n, first, end in _spans(starts, numbers):
            if need[0]:
                torch.mm(dy[first:end], W[n], out=dx[first:end])
            if need[1]:
                torch.mm(dy[first:end].t(), x[first:end], out=dW[n])
            if need[2]:
                torch.sum(dy[first:end], 0, out=db[n])
        return dx, dW, db

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> None:
        raise NotImplementedError("second derivatives of grouped weights: not offered")

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> tuple[Any, tuple[int, int, int]]:
        found = [Back.apply(*one) for one in _each(info, in_dims, inputs)]
        every = zip(*found, strict=True)  # pyright: ignore[reportArgumentType]
        return tuple(torch.stack(each) for each in every), (0, 0, 0)


def _spans(starts: Sequence[int], numbers: Sequence[int]) -> list[tuple[int, int, int]]:
    """(group, first row, last row + 1), empty groups too: their gradient is zero."""
    return list(zip(numbers, starts[:-1], starts[1:], strict=True))


def _each(info: Any, dims: tuple[Any, ...], inputs: tuple[Any, ...]) -> list[tuple[Any, ...]]:
    """The inputs of each member of a vmapped batch."""

    def member(n: int) -> tuple[Any, ...]:
        pairs = zip(inputs, dims, strict=True)
        return tuple(v.select(d, n) if isinstance(d, int) else v for v, d in pairs)

    return [member(n) for n in range(info.batch_size)]
