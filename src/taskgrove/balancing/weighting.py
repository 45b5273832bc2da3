"""The balancing step: source -> statistic -> weighting -> apply.

A *source* gives each present task's loss, and where a method asks for it each task's gradient of
the shared parameters. Their *statistic* is what a weighting may see: shares, losses and the
Gramian M = R R^T of the rows r_t = share_t dL_t/ds. A *weighting* is a function of the statistic
alone and returns w; *apply* makes the shared gradient sum_t w_t dL_t/ds. A head's gradient is that
of its own task: w_t dL_t/dh, or share_t dL_t/dh where the Gramian was asked for. With w = share it
is the mean over the batch's labels. Symbols: losses, share, w [task] over the present tasks;
gramian [task task] float64.

A weighting that asks for the Gramian can only get it from per-task gradients taken before any sum,
so a projection after one summed backward cannot be written. A batch may come in parts (gradient
accumulation) and lie on several processes: part losses are sums over the part's rows divided by
the whole batch's count, so parts and processes add up to the one joined batch.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

CHUNK = 2**16  # columns of R that are widened to float64 at a time
AllReduce = Callable[[Tensor], object]


@dataclass(frozen=True)
class Statistic:
    """What a weighting may see of a step; `tasks` are the present tasks' numbers.

    `losses` and `gramian` are there for balancers that ask for the Gramian.
    """

    tasks: Int[Tensor, " task"]
    share: Float[Tensor, " task"]
    step: int
    losses: Float[Tensor, " task"] | None = None
    gramian: Float[Tensor, "task task"] | None = None


@runtime_checkable
class Weighting(Protocol):
    """(statistic) -> w [task], and a penalty that a learned weighting adds to sum_t w_t L_t."""

    def __call__(self, statistic: Statistic, /) -> tuple[Tensor, Tensor | None]: ...


@dataclass(frozen=True)
class Balancer:
    """A named weighting; `gramian`: it needs per-task gradients of the shared parameters."""

    name: str
    weighting: Weighting
    gramian: bool = False

    def modules(self) -> list[nn.Module]:
        """The weighting, where it learns parameters of its own."""
        return [self.weighting] if isinstance(self.weighting, nn.Module) else []


def balance(
    balancer: Balancer,
    parts: Iterable[Callable[[], Sequence[Tensor]]],
    share: Float[Tensor, " task"],
    tasks: Int[Tensor, " task"],
    step: int,
    *,
    shared: Sequence[nn.Parameter],
    own: Sequence[Sequence[nn.Parameter]],
    scale: Callable[[Tensor], Tensor] = lambda loss: loss,
    all_reduce: AllReduce | None = None,
) -> tuple[Float[Tensor, " task"], Float[Tensor, " task"]]:
    """Adds the balanced gradient to every `.grad`; returns w and the whole batch's losses.

    Each of `parts`, when called, computes its K scalar losses with their graphs; `own[t]` are the
    parameters of present task t alone (its head); `scale` is a loss scaler's. Memory: with a
    Gramian K x (shared parameters), twice that with several parts; else one backward's. Time: with
    a Gramian one backward a task, through the graph of its own loss only; without it one.
    """
    losses = torch.zeros_like(share)
    heads = [parameter for parameters in own for parameter in parameters]
    if balancer.gramian:
        rows = None  # [task shared]
        for part in parts:
            found = part()
            losses += torch.stack([loss.detach() for loss in found])
            scaled = [scale(loss * s) for loss, s in zip(found, share, strict=True)]
            more = _task_gradients(scaled, shared, own)
            rows = more if rows is None else rows.add_(more)
        assert rows is not None
        _sum_over_processes([losses, rows], all_reduce)
        gramian = _gramian(rows)
        weights, penalty = balancer.weighting(Statistic(tasks, share, step, losses, gramian))
        combined = (weights.detach() / share).to(rows.dtype) @ rows  # [shared]
        _add_gradients(shared, combined)
        reduce_gradients(heads, all_reduce)
    else:
        weights, penalty = balancer.weighting(Statistic(tasks, share, step))
        fixed = weights.detach()
        for part in parts:
            found = part()
            losses += torch.stack([loss.detach() for loss in found])
            scale((fixed * torch.stack(list(found))).sum()).backward()
        _sum_over_processes([losses], all_reduce)
        reduce_gradients([*shared, *heads], all_reduce)
    if weights.requires_grad:  # the weighting's own parameters, alike on each process
        objective = (weights * losses).sum()
        scale(objective if penalty is None else objective + penalty).backward()
    return weights.detach(), losses


def reduce_gradients(parameters: Sequence[nn.Parameter], all_reduce: AllReduce | None) -> None:
    """Sums gradients over processes in one call; a parameter unused here counts as zero."""
    if all_reduce is None:
        return
    used = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    flat = torch.cat([grad.flatten() for grad in used])
    all_reduce(flat)
    for parameter in parameters:
        parameter.grad = None
    _add_gradients(parameters, flat)


def _gramian(rows: Float[Tensor, "task shared"]) -> Float[Tensor, "task task"]:
    """R R^T in float64, in pieces, so that no second copy of R is held."""
    gramian = rows.new_zeros(len(rows), len(rows), dtype=torch.float64)
    for piece in rows.split(CHUNK, dim=1):
        wide = piece.double()
        gramian += wide @ wide.T
    return gramian


def _sum_over_processes(tensors: Sequence[Tensor], all_reduce: AllReduce | None) -> None:
    if all_reduce is not None:
        for tensor in tensors:
            all_reduce(tensor)


def _task_gradients(
    losses: Sequence[Tensor],
    shared: Sequence[nn.Parameter],
    own: Sequence[Sequence[nn.Parameter]],
) -> Float[Tensor, "task shared"]:
    """dL_t/d(shared), flattened, one row a task; each head's gradient goes to its `.grad`."""
    rows = losses[0].new_zeros(len(losses), sum(parameter.numel() for parameter in shared))
    for number, loss in enumerate(losses):
        if not loss.requires_grad:  # no row of the task in this part
            continue
        wanted = [*shared, *own[number]]
        grads = torch.autograd.grad(loss, wanted, retain_graph=True, materialize_grads=True)
        torch.cat([grad.flatten() for grad in grads[: len(shared)]], out=rows[number])
        for parameter, grad in zip(own[number], grads[len(shared) :], strict=True):
            parameter.grad = grad if parameter.grad is None else parameter.grad + grad
    return rows


def _add_gradients(parameters: Sequence[nn.Parameter], flat: Float[Tensor, " shared"]) -> None:
    parts = flat.split([parameter.numel() for parameter in parameters])
    for parameter, part in zip(parameters, parts, strict=True):
        grad = part.view_as(parameter).to(parameter.dtype)
        parameter.grad = grad if parameter.grad is None else parameter.grad + grad
