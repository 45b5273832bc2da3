"""climb: each task's gradient here, and at the end of its own climb (see `task_sam`).

A row is one task's gradient, shared and own parameters alike; the first evaluation gives all rows
at the cost of any method that sees gradients (see `source`), each climb one forward and one
backward pass. Rows are those of the joined batch of all parts and processes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor, nn

from taskgrove.balancing import source
from taskgrove.balancing.ascent import Noise, again, climbed, noise
from taskgrove.balancing.batch import Reduce
from taskgrove.balancing.gradients import Held
from taskgrove.balancing.graph import graph_of
from taskgrove.balancing.source import Asked

LossesOf = Callable[[Sequence[int]], Sequence[Tensor]]
Row = dict[nn.Parameter, Tensor]


@dataclass(frozen=True)
class Again:
    """A batch that can be evaluated again: parts that compute the losses of the tasks asked for.

    `factor` is a loss scaler's, a power of two, and divided out of the rows; `reduced` are the
    parameters whose rows `all_reduce` adds up over processes.
    """

    parts: Sequence[LossesOf]
    tasks: Sequence[int]
    buffers: Sequence[Tensor]
    factor: float
    all_reduce: Reduce | None
    reduced: Sequence[nn.Parameter]

    def here(self) -> tuple[list[Row], Float64[Tensor, " task"], list[Noise]]:
        """Rows and losses at the weights as they are, and the noise that each part saw."""
        rows: list[Row] = [{} for _ in self.tasks]
        losses, before = torch.zeros(len(self.tasks), dtype=torch.float64), list[Noise]()
        for part in self.parts:
            before.append(noise())
            found = list(part(self.tasks))
            losses += torch.stack([loss.detach() for loss in found]).double().cpu()
            graph = graph_of(found)
            every = dict.fromkeys(graph.leaves, 0)
            seeds = [loss.new_tensor(self.factor) for loss in found]
            asked = Asked(found, seeds, graph, every, retain=False)
            for parameter, gradients in source.parameters(asked, write=True).rows.items():
                assert isinstance(gradients, Held)
                for places, block in gradients.blocks:
                    for place, gradient in zip(places, block, strict=True):
                        self._add(rows[place], parameter, gradient)
        if self.all_reduce is not None:
            moved = losses.to(self.reduced[0].device)
            self.all_reduce(moved)
            losses = moved.cpu()
        return [self._joined(row) for row in rows], losses, before

    def above(
        self, place: int, eps: Row, before: Sequence[Noise], inputs: Sequence[nn.Parameter]
    ) -> Row:
        """The row of one task, which reaches `inputs`, at the end of its climb.

        Weights, noise and buffers are put back.
        """
        row: Row = {}
        with climbed(eps):
            for part, state in zip(self.parts, before, strict=True):
                with again(state, self.buffers):
                    (loss,) = part([self.tasks[place]])
                    self._backward(loss, inputs, row)
        return self._joined(row)

    def _backward(self, loss: Tensor, inputs: Sequence[nn.Parameter], row: Row) -> None:
        if not loss.requires_grad or not inputs:
            return
        seed = loss.new_tensor(self.factor)
        found = torch.autograd.grad(loss, inputs, seed, allow_unused=True)
        for parameter, gradient in zip(inputs, found, strict=True):
            if gradient is not None:
                self._add(row, parameter, gradient)

    def _add(self, row: Row, parameter: nn.Parameter, gradient: Tensor) -> None:
        found = gradient if self.factor == 1 else gradient / self.factor
        row[parameter] = row[parameter] + found if parameter in row else found

    def _joined(self, row: Row) -> Row:
        """The row of all processes' batch."""
        if self.all_reduce is None:
            return row
        parts = [row.get(p, torch.zeros_like(p)).flatten() for p in self.reduced]
        flat = torch.cat(parts).detach()
        self.all_reduce(flat)
        found = flat.split([p.numel() for p in self.reduced])
        return {p: g.view_as(p) for p, g in zip(self.reduced, found, strict=True)}
