"""Stacked parameters: K tasks are one tensor, the task its first axis.

A tensor keeps spare room behind its last task, doubled when it is full, so that adding a task moves
nothing on most calls: its cost is one row, and a view.
"""

import torch
from torch import Tensor, nn


def grow(parameter: nn.Parameter, rows: Tensor) -> None:
    """Appends `rows` [new ...] to a stacked parameter [task ...] in place."""
    old = parameter.data
    count, size = len(old), old[0].numel()
    needed = (count + len(rows)) * size
    if old.untyped_storage().nbytes() < (old.storage_offset() + needed) * old.element_size():
        room = old.new_empty(max(2 * count, count + len(rows)), *old.shape[1:])
        room[:count] = old
        old = room
    parameter.data = torch.as_strided(
        old, (count + len(rows), *old.shape[1:]), old.stride(), old.storage_offset()
    )
    parameter.data[count:] = rows.to(old)
    parameter.grad = None
