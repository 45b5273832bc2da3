"""joined: sums over parts of a batch and over processes; the one joined batch is what counts.

Rows are summed before anything is weighed: the Gramian of a sum is not the sum of Gramians. At the
features examples lie on one process each, so there the Gramians themselves add up.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from taskgrove.balancing.batch import Batch, Bound, Reduce
from taskgrove.balancing.gradients import Held
from taskgrove.balancing.measured import Measured


@torch.no_grad()
def reduce_rows(batch: Batch, measured: Measured, shared: Mapping[nn.Parameter, int]) -> None:
    """Rows of the joined batch on each process."""
    if batch.all_reduce is None:
        return
    count = len(batch.tasks)
    for parameter in shared:
        held = measured.rows.get(parameter, Held())
        assert isinstance(held, Held)
        rows = held.whole(parameter, count)
        batch.all_reduce(rows)
        measured.rows[parameter] = Held([(range(count), rows)])


@torch.no_grad()
def joined(before: Measured, more: Measured, count: int) -> Measured:
    """Rows of two parts of a batch, added up in place."""
    for parameter, rows in more.rows.items():
        assert isinstance(rows, Held)
        kept = before.rows.get(parameter)
        whole = rows.whole(parameter, count)
        if isinstance(kept, Held):
            kept.blocks[0][1].add_(whole)
        else:
            before.rows[parameter] = Held([(range(count), whole)])
    for parameter, gradient in more.plain.items():
        kept = before.plain.get(parameter)
        before.plain[parameter] = gradient if kept is None else kept + gradient
    return before


def reduce_all(bound: Bound, batch: Batch, *, shared_too: bool = True) -> None:
    """Sums gradients over processes in one call, unless `backward` does."""
    if batch.all_reduce is None or batch.backward is not None:
        return
    shared = [p for group in bound.groups for p in group] if shared_too else []
    reduce_gradients([*shared, *batch.own], batch.all_reduce)


def reduce_gradients(parameters: Sequence[nn.Parameter], all_reduce: Reduce) -> None:
    """Sums gradients over processes; a parameter unused here counts as zero."""
    if not parameters:
        return
    used = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    flat = torch.cat([gradient.flatten() for gradient in used])
    all_reduce(flat)
    parts = flat.split([p.numel() for p in parameters])
    for parameter, part in zip(parameters, parts, strict=True):
        parameter.grad = part.view_as(parameter).to(parameter.dtype)
