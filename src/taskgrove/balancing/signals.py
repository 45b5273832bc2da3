"""signals: what tasks say where their graphs meet.

One pass over the tasks' own nodes catches each task's contribution on its way into the common part,
before any sum; heads get their gradients in the same pass.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge

from taskgrove.balancing.graph import Component
from taskgrove.balancing.measured import Asked, Entered, Measured, grad
from taskgrove.balancing.walk import COMMON, Node, edge_of

Caught = dict[Any, dict[int, Tensor]]  # by edge or parameter, then by task
Slots = dict[Node, list[tuple[int, Any, int]]]  # of each node: (slot, edge or parameter, task)


def enter(
    asked: Asked, component: Component, readers: Mapping[nn.Parameter, set[int]], measured: Measured
) -> Entered:
    """The signals of a component's tasks at its edges; own parameters go to `measured`."""
    graph, tasks = asked.graph, component.tasks
    own = [p for p, owners in readers.items() if COMMON not in owners]
    caught: Caught = defaultdict(dict)
    slots = _frontier_slots(asked, component, caught)
    edges = list(dict.fromkeys(edge for places in slots.values() for _, edge, _ in places))
    for parameter in own:
        if parameter in asked.shared:
            for node, slot in graph.leaves[parameter]:
                if (task := graph.owner[node]) in readers[parameter]:
                    slots[node].append((slot, parameter, task))
    losses = [t for t in tasks if graph.owner[edge_of(asked.losses[t])[0]] != COMMON]
    if losses:
        handles = [node.register_hook(_catcher(places, caught)) for node, places in slots.items()]
        found = grad(
            [asked.losses[t] for t in losses],
            [*own, *(GradientEdge(*edge) for edge in edges)],
            [asked.seeds[t] for t in losses],
            retain_graph=True,  # tasks may meet at several heights, common nodes are needed again
            allow_unused=True,
        )
        for handle in handles:
            handle.remove()
        for parameter, gradient in zip(own, found, strict=False):
            if parameter not in asked.shared and gradient is not None:
                measured.add(parameter, gradient)
    for parameter in own:
        for task, gradient in caught.pop(parameter, {}).items():
            measured.keep(parameter, [task], gradient[None], shared=True)
    return Entered(tasks, {edge: _stack(of, tasks) for edge, of in caught.items() if of})


def _frontier_slots(asked: Asked, component: Component, caught: Caught) -> Slots:
    """Where signals pass; the seed itself where a loss is an output of a common node."""
    slots: Slots = defaultdict(list)
    for edge, entries in component.frontier.items():
        for entry in entries:
            if entry.source is None:
                _catch(caught[edge], entry.task, asked.seeds[entry.task])
            else:
                slots[entry.source].append((entry.slot, edge, entry.task))
    return slots


def _catcher(
    places: Sequence[tuple[int, Any, int]], caught: Caught
) -> Callable[[Sequence[Tensor | None], Any], None]:
    def catch(gradients: Sequence[Tensor | None], _outputs: Any) -> None:
        for slot, key, task in places:
            if (gradient := gradients[slot]) is not None:
                _catch(caught[key], task, gradient)

    return catch


def _catch(caught: dict[int, Tensor], task: int, gradient: Tensor) -> None:
    caught[task] = caught[task] + gradient if task in caught else gradient


def _stack(caught: Mapping[int, Tensor], tasks: Sequence[int]) -> Tensor:
    """Signals [m ...] of an edge, zeros for tasks that do not enter there."""
    if len(caught) < len(tasks):
        nothing = torch.zeros_like(next(iter(caught.values())))
        return torch.stack([caught.get(task, nothing) for task in tasks])
    return torch.stack([caught[task] for task in tasks])
