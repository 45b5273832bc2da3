"""gradients: rows r_t of a parameter's K task gradients that are written out.

*Held*: as autograd wrote them. *Written*: by us, into a buffer that outlives the step, since memory
that is new each step can cost more than the products. Both answer with their part of the Gramian
M_ij = <r_i, r_j>, in float64, and with the combination sum_t c_t r_t. Symbols: c [task]; held rows
[m ...] of m of the K tasks. Cost: m^2 multiplications an element.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Float64
from torch import Tensor

CHUNK = 2**16  # elements of a row that are looked at together
PIECE = 2**10  # of them, products are added up in fp32: its error stays below fp32's rounding


@dataclass
class Held:
    """Blocks (tasks, rows [m ...]) of rows that are written out; a task may be in several."""

    blocks: list[tuple[Sequence[int], Tensor]] = field(default_factory=list)

    def gramian(self, count: int) -> Float64[Tensor, "task task"]:
        """M, in pieces, so that no second copy of the rows is held."""
        order = [task for tasks, _ in self.blocks for task in tasks]
        flat = [rows.reshape(len(rows), -1) for _, rows in self.blocks]
        found = flat[0].new_zeros(len(order), len(order), dtype=torch.float64)
        for start in range(0, flat[0].shape[1], CHUNK):
            parts = [rows[:, start : start + CHUNK] for rows in flat]
            piece = parts[0] if len(parts) == 1 else torch.cat(parts)
            found += inner(piece, piece)
        place = torch.tensor(order, device=found.device)
        rows = found.new_zeros(count, len(order)).index_add_(0, place, found)
        return found.new_zeros(count, count).index_add_(1, place, rows)

    def combined(self, c: Float[Tensor, " task"]) -> Tensor:
        """sum_t c_t r_t."""
        total: Tensor | None = None
        for tasks, rows in self.blocks:
            if len(rows) > 1:
                part = torch.tensordot(c[list(tasks)].to(rows), rows, 1)
                total = part if total is None else total.add_(part)
            elif total is None:
                total = rows[0] * c[tasks[0]].item()
            else:
                total.add_(rows[0], alpha=c[tasks[0]].item())
        assert total is not None
        return total

    def place(self) -> int:
        """How many blocks there are."""
        return len(self.blocks)

    def whole(self, like: Tensor, count: int) -> Float[Tensor, "task ..."]:
        """All rows of a parameter, contiguous, zeros for tasks without one."""
        if len(self.blocks) == 1 and list(self.blocks[0][0]) == list(range(count)):
            return self.blocks[0][1].contiguous()
        whole = like.new_zeros(count, *like.shape)
        for tasks, rows in self.blocks:
            whole[list(tasks)] += rows
        return whole.detach()


@dataclass
class Written:
    """Rows [task out dim] written into a buffer that is kept from step to step."""

    rows: Float[Tensor, "task out dim"]
    flipped: bool
    seen: dict[int, None] = field(default_factory=dict)  # in order

    def write(self, task: int, A: Tensor, D: Tensor) -> None:
        """Adds D^T A, A [row dim] and D [row out]."""
        left, right = (A.T, D) if self.flipped else (D.T, A)
        if task in self.seen:
            self.rows[task].add_(left @ right)
        elif left.dtype == self.rows.dtype:
            torch.mm(left, right, out=self.rows[task])
        else:
            self.rows[task].copy_(left @ right)
        self.seen[task] = None

    def _whole(self) -> Tensor:
        for task in range(len(self.rows)):
            if task not in self.seen:
                self.rows[task].zero_()
        return self.rows.flatten(1)

    def gramian(self, _count: int) -> Float64[Tensor, "task task"]:
        """M."""
        rows = self._whole()
        return inner(rows, rows)

    def combined(self, c: Float[Tensor, " task"]) -> Tensor:
        """sum_t c_t r_t."""
        rows = self._whole()
        return torch.mv(rows.T, c.to(rows)).view(self.rows.shape[1:])

    def place(self) -> int:
        """How many tasks are written."""
        return len(self.seen)

    def held(self, place: int) -> Held:
        """The first rows outside of the buffer."""
        tasks = list(self.seen)[:place]
        return Held([([task], self.rows[task : task + 1].clone()) for task in tasks])


def inner(left: Tensor, right: Tensor) -> Float64[Tensor, "m l"]:
    """Inner products of all pairs; PIECE elements at a time in fp32, their sums in float64."""
    left, right = left.reshape(len(left), -1), right.reshape(len(right), -1)
    wide = torch.promote_types(left.dtype, torch.float32)
    gramian = left.new_zeros(len(left), len(right), dtype=torch.float64)
    even = left.shape[1] // PIECE * PIECE
    for start in range(0, even, CHUNK):
        a, b = (
            m[:, start : min(start + CHUNK, even)]
            .to(wide)
            .unflatten(1, (-1, PIECE))
            .transpose(0, 1)
            for m in (left, right)
        )
        gramian += torch.bmm(a, b.transpose(1, 2)).double().sum(0)
    return gramian + (left[:, even:].to(wide) @ right[:, even:].to(wide).T).double()
