"""uses: how a parameter is read, so that its task gradients need not be written out.

A weight W [out dim] of a linear layer y = x W^T has task gradients g_t = D_t^T A, with A [row dim]
the layer's inputs and D_t [row out] task t's signal at its outputs. Their inner products need no
g_t: <g_i, g_j> = sum_nm (A A^T)_nm (D_i D_j^T)_nm = <D_i, (A A^T) D_j>, cheaper than writing them
out where the rows are fewer than the widths. An embedding is the same with one-hot A: its D_t are
added up by identifier. A weight read several times, or tied, has the rows of all its uses. Found in
autograd's graph (`addmm`, `mm`, `embedding`); other ways to read a parameter are autograd's.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from taskgrove.balancing.graph import Graph
from taskgrove.balancing.pairs import by_identifier
from taskgrove.balancing.walk import Node

PASSED = {"TBackward0": 1, "TransposeBackward0": 1, "ToCopyBackward0": 0}  # transpositions


@dataclass(frozen=True)
class Use:
    """A node that reads a weight; `flipped`: W is stored as [dim out]."""

    node: Node
    kind: str  # "linear" or "embedding"
    flipped: bool = False

    @property
    def rows(self) -> int:
        """Rows of A, read without touching a saved tensor."""
        if self.kind == "embedding":
            return self.node._saved_indices.numel()
        name = "mat1" if self.node.name() == "AddmmBackward0" else "self"
        return int(getattr(self.node, f"_saved_{name}_sym_sizes")[0])

    def block(self, D: Tensor) -> tuple[Tensor, Tensor]:
        """(A [row dim] or identifiers [row], D [task row out]) from the node's signal."""
        D = D.flatten(1, -2)
        if self.kind == "embedding":
            node = self.node
            return by_identifier(node._saved_indices.flatten(), D, node._saved_padding_idx)
        saved = "mat1" if self.node.name() == "AddmmBackward0" else "self"
        return getattr(self.node, f"_saved_{saved}"), D


def uses_of(parameter: nn.Parameter, graph: Graph) -> list[Use] | None:
    """All uses of a weight, or None where one of them is not a linear layer or an embedding."""
    if parameter.dim() != 2:
        return None
    found: list[Use] = []
    for node, slot in graph.leaves.get(parameter, []):
        if node.name() == "EmbeddingBackward0" and not node._saved_scale_grad_by_freq:
            found.append(Use(node, "embedding"))
            continue
        ends = _linear(node, slot, 0, graph)
        if ends is None:
            return None
        found += ends
    return found or None


def _linear(node: Node, slot: int, turns: int, graph: Graph) -> list[Use] | None:
    """Follows casts and transpositions up to the products."""
    name = node.name()
    if name in PASSED:
        found: list[Use] = []
        for parent, place in graph.parents.get(node, []):
            ends = _linear(parent, place, turns + PASSED[name], graph)
            if ends is None:
                return None
            found += ends
        return found or None
    product = (name, slot) == ("AddmmBackward0", 2) and node._saved_alpha == 1
    if product or (name, slot) == ("MmBackward0", 1):
        return [Use(node, "linear", flipped=turns % 2 == 0)]
    return None


class _Take(torch.autograd.Function):
    """The identity; hands the gradient, with its axis of tasks in front, to `take`."""

    generate_vmap_rule = False

    @staticmethod
    def forward(gradient: Tensor, take: "Tap") -> Tensor:
        take(gradient[None])
        return gradient.view_as(gradient)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> tuple[Tensor, int]:  # noqa: ARG004
        gradient, take = args[0].movedim(in_dims[0], 0), args[1]
        take(gradient)
        return gradient, 0


def _let_pass(_gradient: Tensor) -> None:
    pass


class Tap:
    """Calls `take(D [task ...])` when a backward pass reaches a node, batched over tasks or not."""

    def __init__(self, node: Node, take: Callable[[Tensor], None], batched: bool) -> None:
        self.take, self.batched = take, batched
        self.handle = node.register_prehook(self._hook)

    def __call__(self, gradient: Tensor) -> None:
        self.take(gradient)

    def close(self) -> None:
        """Leaves the node alone; autograd may hold this object, but no longer what it caught."""
        self.handle.remove()
        self.take = _let_pass

    def _hook(self, gradients: Sequence[Tensor | None]) -> None:
        if gradients[0] is None:
            return
        if self.batched:
            _Take.apply(gradients[0], self)
        else:
            self.take(gradients[0][None])
