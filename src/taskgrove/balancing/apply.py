"""apply: the shared gradient sum_t w_t g_t, from known rows or by one ordinary backward pass.

Rows are r_t = share_t g_t, so their coefficients are c_t = w_t / share_t. `combine` adds rows up,
and where only their Gramian is known sends the weighted signals through the common part once more.
`scaled` makes one ordinary backward pass of sum_t share_t L_t do it: where a task's own part meets
what is shared, what flows through is multiplied by c_t. A head so keeps its own gradient, even
where w_t is zero or negative, and wrappers that reduce gradients in a backward pass see nothing
unusual.
Symbols: c [group task].
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from taskgrove.balancing.graph import Graph
from taskgrove.balancing.measured import Measured
from taskgrove.balancing.pairs import Streamed
from taskgrove.balancing.walk import COMMON, Node, edge_of


def combine(
    measured: Measured, shared: Mapping[nn.Parameter, int], c: Tensor
) -> dict[nn.Parameter, Tensor]:
    """Gradients of the shared parameters, and of those below the features that are not."""
    found: dict[nn.Parameter, Tensor] = {}
    for parameter in list(measured.rows):
        rows = measured.rows.pop(parameter)  # inputs and signals are dropped as gradients come
        if not isinstance(rows, Streamed):
            found[parameter] = rows.combined(c[shared[parameter]])
    plain = torch.ones_like(c[0])
    for entered, again in measured.again:
        groups: dict[int, list[nn.Parameter]] = {}
        for parameter in again:
            groups.setdefault(shared.get(parameter, -1), []).append(parameter)
        for group, inputs in groups.items():
            weights = plain if group < 0 else c[group]
            for parameter, gradient in zip(inputs, entered.combined(inputs, weights), strict=True):
                found[parameter] = found[parameter] + gradient if parameter in found else gradient
    return found


def add(gradients: Mapping[nn.Parameter, Tensor]) -> None:
    """Adds to `.grad`."""
    for parameter, gradient in gradients.items():
        found = gradient.to(parameter.dtype)
        parameter.grad = found if parameter.grad is None else parameter.grad + found


@contextmanager
def scaled(graph: Graph, shared: Mapping[nn.Parameter, int], c: Tensor) -> Iterator[None]:
    """While open, a backward pass multiplies what tasks say to shared parameters by c [task].

    A loss without a node of its own has no place for it: see `roots`.
    """
    factors = c.tolist()
    leaf = {id(node): p for p, edges in graph.leaves.items() if p in shared for node, _ in edges}
    handles = []
    for node, task in graph.owner.items():
        if task == COMMON or factors[task] == 1:
            continue
        slots = [
            slot
            for slot, (below, _) in enumerate(graph.edges[node])
            if graph.owner.get(below) == COMMON or (id(node) in leaf and _variable(below) in shared)
        ]
        if slots:
            handles.append(node.register_hook(_scaler(slots, factors[task])))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def carried(graph: Graph, shared: Mapping[nn.Parameter, int]) -> None:
    """Raises ValueError where one backward pass cannot weigh `shared` and nothing else."""
    for parameter, edges in graph.leaves.items():
        if (
            isinstance(parameter, nn.Parameter)
            and parameter not in shared
            and any(graph.owner[node] == COMMON for node, _ in edges)
        ):
            raise ValueError(
                f"a parameter of shape {list(parameter.shape)} that is not in shared= is read below"
                " the place where tasks meet, where one ordinary backward pass cannot tell it from"
                " the shared ones; add it to shared=, or give each task its own head module and"
                " loss, or leave out backward= and every="
            )


def roots(graph: Graph, losses: Sequence[Tensor], c: Tensor) -> Tensor:
    """c [task] for losses that `scaled` cannot reach, having no node of their own; else 1."""
    met = [graph.owner.get(edge_of(loss)[0]) == COMMON for loss in losses]
    return torch.where(torch.tensor(met), c, torch.ones_like(c))


def _variable(node: Node) -> Any:
    return getattr(node, "variable", None)


def _scaler(slots: Sequence[int], factor: float) -> Callable[[Any, Any], tuple[Tensor | None, ...]]:
    def scale(gradients: Sequence[Tensor | None], _outputs: Any) -> tuple[Tensor | None, ...]:
        return tuple(
            g * factor if g is not None and slot in slots else g for slot, g in enumerate(gradients)
        )

    return scale
