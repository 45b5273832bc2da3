"""measured: what is asked of a source, and what it found.

A component of m tasks that meet is entered by their signals [m ...], one tensor an edge; sent down
from there, one by one, batched or weighted, they give gradients of what lies below. Rows of shared
parameters are kept task by task, gradients of all other parameters as their sum.
"""

import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge

from taskgrove.balancing.gradients import Held, Written
from taskgrove.balancing.graph import Graph
from taskgrove.balancing.pairs import Gradients, Paired, Streamed
from taskgrove.balancing.plan import Buffers, Plan
from taskgrove.balancing.walk import Node

logger = logging.getLogger(__name__)
Edge = tuple[Node, int]
grad: Any = torch.autograd.grad  # its stubs do not know that inputs may mix tensors and edges


@dataclass
class Entered:
    """A component of several tasks, and the signals [m ...] that enter it at its edges."""

    tasks: list[int]
    signals: dict[Edge, Tensor]

    @property
    def device(self) -> torch.device:
        """Where the signals lie."""
        return next(iter(self.signals.values())).device

    def down(self, inputs: Sequence[nn.Parameter | GradientEdge]) -> list[Tensor]:
        """Gradients of `inputs` for each signal [m ...], in one batched pass."""

        def through(*signals: Tensor) -> tuple[Tensor, ...]:
            return tuple(self._pass(inputs, signals))

        with warnings.catch_warnings():  # an operation without a batching rule runs one by one
            warnings.filterwarnings("ignore", "There is a performance drop", UserWarning)
            return list(torch.vmap(through, randomness="same")(*self.signals.values()))

    def single(self, inputs: Sequence[nn.Parameter | GradientEdge], place: int) -> list[Tensor]:
        """Gradients of `inputs` [...] for the signal of one task."""
        return self._pass(inputs, [signal[place] for signal in self.signals.values()])

    def combined(self, inputs: Sequence[nn.Parameter], c: Tensor) -> list[Tensor]:
        """Gradients of `inputs` [...] for the signals' sum weighted by c [task]."""
        weights = c[self.tasks]
        mixed = [torch.tensordot(weights.to(s), s, 1) for s in self.signals.values()]
        return self._pass(inputs, mixed)

    def spread(self, inputs: Sequence[nn.Parameter], d: Tensor) -> list[Tensor]:
        """Gradients of `inputs` [...] for one combined signal, flat [feature] over the edges."""
        sizes = [signal[0].numel() for signal in self.signals.values()]
        pairs = zip(d.split(sizes), self.signals.values(), strict=True)
        return self._pass(inputs, [part.view_as(signal[0]) for part, signal in pairs])

    def flat(self) -> Tensor:
        """The signals as rows [m feature]."""
        return torch.cat([signal.flatten(1) for signal in self.signals.values()], 1)

    def _pass(
        self, inputs: Sequence[nn.Parameter | GradientEdge], signals: Sequence[Tensor]
    ) -> list[Tensor]:
        edges = [GradientEdge(*edge) for edge in self.signals]
        found = grad(edges, inputs, signals, retain_graph=True, allow_unused=True)
        nothing = signals[0].new_zeros(())
        return [
            (torch.zeros_like(i) if isinstance(i, Tensor) else nothing) if g is None else g
            for i, g in zip(inputs, found, strict=True)
        ]

    def gramian(self, count: int) -> Tensor:
        """Inner products of the signals themselves: the Gramian at the features."""
        total = Streamed(count)
        for signal in self.signals.values():
            total.add(self.tasks, Held([(range(len(signal)), signal)]).gramian(len(signal)))
        return total.gramian(count)


@dataclass
class Measured:
    """What a source found: rows of the shared parameters, gradients of the others."""

    rows: dict[nn.Parameter, Gradients] = field(default_factory=dict)
    plain: dict[nn.Parameter, Tensor] = field(default_factory=dict)
    again: list[tuple[Entered, list[nn.Parameter]]] = field(default_factory=list)

    @contextmanager
    def undone_on_error(self, parameters: Iterable[nn.Parameter], plan: Plan) -> Iterator[None]:
        """Swallows what a batched or tapped pass cannot do; these weights are then written out."""
        before = {p: kept.place() for p in parameters if (kept := self.rows.get(p)) is not None}
        try:
            yield
        except RuntimeError as error:
            if "out of memory" in str(error):
                raise
            logger.info("gradients are written out one by one: %s", error)
            for parameter in parameters:
                if plan.pop(parameter, None) is not None:
                    kept = self.rows.pop(parameter)
                    if isinstance(kept, Paired | Written) and before[parameter]:
                        self.rows[parameter] = kept.held(before[parameter])

    def keep(
        self, parameter: nn.Parameter, tasks: Sequence[int], rows: Tensor, shared: bool
    ) -> None:
        """Rows [m ...] of a shared parameter, their sum for another."""
        if shared:
            held = self.rows.setdefault(parameter, Held())
            assert isinstance(held, Held)
            held.blocks.append((tasks, rows))
        else:
            self.add(parameter, rows[0] if len(rows) == 1 else rows.sum(0))

    def add(self, parameter: nn.Parameter, gradient: Tensor) -> None:
        """Adds to the gradient of a parameter that is not shared."""
        before = self.plain.get(parameter)
        self.plain[parameter] = gradient if before is None else before + gradient


@dataclass(frozen=True)
class Asked:
    """The losses of a step and what is wanted of them."""

    losses: Sequence[Tensor]
    seeds: Sequence[Tensor]
    graph: Graph
    shared: Mapping[nn.Parameter, int]
    retain: bool  # the graphs are needed afterwards
    buffers: Buffers = field(default_factory=dict)
