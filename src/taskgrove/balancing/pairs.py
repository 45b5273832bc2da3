"""pairs: rows of a weight known by the inputs and signals of its uses.

A weight W [out dim] of y = x W^T has rows r_t = D_t^T A, from inputs A [row dim] and signals D_t
[row out]. Their inner products need no r_t: <r_i, r_j> = <D_i, (A A^T) D_j>; their combination is
one product (sum_t c_t D_t)^T A. *Paired* keeps A and D, *streamed* only their part of the Gramian.
An embedding has identifiers in place of A. Products, with n rows and m tasks: paired
n^2 dim + (n + m) m n out, written out m n dim out + m^2 dim out.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from taskgrove.balancing.gradients import CHUNK, Held, Written, inner


@dataclass
class Paired:
    """Blocks (tasks, A [row dim] or identifiers [row], D [m row out]); W [out dim] or flipped."""

    shape: torch.Size
    flipped: bool
    blocks: list[tuple[Sequence[int], Tensor, Tensor]] = field(default_factory=list)

    def gramian(self, count: int) -> Float64[Tensor, "task task"]:
        """M from each pair of blocks once."""
        if not self.blocks:
            return torch.zeros(count, count, dtype=torch.float64)
        gramian = self.blocks[0][2].new_zeros(count, count, dtype=torch.float64)
        for number, (tasks, A, D) in enumerate(self.blocks):
            for others, B, E in self.blocks[number:]:
                found = between(A, D, B, E)
                gramian[torch.tensor(tasks)[:, None], torch.tensor(others)] += found
                if E is not D:
                    gramian[torch.tensor(others)[:, None], torch.tensor(tasks)] += found.T
        return gramian

    def combined(self, c: Float[Tensor, " task"]) -> Tensor:
        """(sum_t c_t D_t)^T A: one weight gradient, whatever the number of tasks."""
        if not self.blocks:
            return c.new_zeros(self.shape)
        total: Tensor | None = None
        for tasks, A, D in self.blocks:
            signal = torch.tensordot(c[list(tasks)].to(D), D, 1)  # [row out]
            if not A.is_floating_point():
                part = signal.new_zeros(self.shape).index_add_(0, A, signal)
            else:
                part = A.T @ signal if self.flipped else signal.T @ A
            total = part if total is None else total.add_(part)
        assert total is not None
        return total

    def place(self) -> int:
        """How many blocks there are."""
        return len(self.blocks)

    def held(self, place: int) -> Held:
        """The rows of the first blocks, written out."""
        held = Held()
        for tasks, A, D in self.blocks[:place]:
            each = [
                Paired(self.shape, self.flipped, [([0], A, D[t : t + 1])]).combined(D.new_ones(1))
                for t in range(len(D))
            ]
            held.blocks.append((tasks, torch.stack(each)))
        return held


@dataclass
class Streamed:
    """Only the Gramian is left; the combination takes another backward pass."""

    count: int
    total: Float64[Tensor, "task task"] | None = None

    def add(self, tasks: Sequence[int], found: Float64[Tensor, "m m"]) -> None:
        """Adds the inner products of m tasks."""
        if self.total is None:
            self.total = found.new_zeros(self.count, self.count)
        place = torch.tensor(tasks)
        self.total[place[:, None], place] += found

    def place(self) -> int:
        """Nothing to go back to."""
        return 0

    def gramian(self, count: int) -> Float64[Tensor, "task task"]:
        """M."""
        return torch.zeros(count, count, dtype=torch.float64) if self.total is None else self.total


Gradients = Held | Paired | Streamed | Written


def between(A: Tensor, D: Tensor, B: Tensor, E: Tensor) -> Float64[Tensor, "m l"]:
    """<D_i, (A B^T) E_j>, all i and j; A [row dim], D [m row out], B [line dim], E [l line out]."""
    met = A @ B.T if A.is_floating_point() else (A[:, None] == B).to(D.dtype)  # [row line]
    if len(D) < len(E):
        return inner(E, met.T @ D).T
    return inner(D, met @ E)


def written(A: Tensor, D: Tensor) -> Float64[Tensor, "m m"]:
    """<D_i^T A, D_j^T A> with the gradients written out, as many outputs at a time as fit."""
    if not A.is_floating_point():  # identifiers, each once
        return inner(D, D)
    gramian = D.new_zeros(len(D), len(D), dtype=torch.float64)
    size = max(1, CHUNK * 16 // (len(D) * A.shape[1]))
    for part in D.split(size, dim=2):
        rows = part.transpose(1, 2) @ A  # [m out dim]
        gramian += inner(rows, rows)
    return gramian


def by_identifier(identifiers: Tensor, D: Tensor, padding: int) -> tuple[Tensor, Tensor]:
    """Each identifier once, and D [m row out] added up over its rows; padding's is zero."""
    found, place = torch.unique(identifiers, return_inverse=True)
    total = D.new_zeros(len(D), len(found), D.shape[2]).index_add_(1, place, D)
    total[:, found == padding] = 0
    return found, total


def products(rows: int, dim: int, out: int, tasks: int) -> tuple[int, int]:
    """Multiplications of `between` and of `written` for one block."""
    paired = rows * rows * dim + tasks * rows * rows * out + tasks * tasks * rows * out
    return paired, tasks * rows * dim * out + tasks * tasks * dim * out
