"""walk: down from each loss through autograd's graph, telling whose node is whose.

Each node is visited at most twice, whatever the number of tasks. Tasks that meet are joined
(union-find).
"""

from collections import defaultdict
from typing import Any

from torch import Tensor, nn

Node = Any  # torch.autograd.graph.Node
COMMON = -1  # the owner of a node that leads to several losses


def edge_of(tensor: Tensor) -> tuple[Node, int]:
    """The node that made a tensor (None where there is no graph), and which of its outputs."""
    return _passed(tensor.grad_fn, tensor.output_nr)


def edges_of(node: Node) -> list[tuple[Node, int]]:
    """A node's edges downwards, by slot."""
    return [_passed(*edge) for edge in node.next_functions]


def _passed(node: Node, output: int) -> tuple[Node, int]:
    """Looks through a node of DDP's (find_unused_parameters) that hands all outputs on as is."""
    while type(node).__name__ == "_DDPSinkBackward":
        if node.ddp_weakref().static_graph:
            raise ValueError(
                "DDP(static_graph=True) counts backward passes and takes the one that looks at task"
                " gradients for the real one; leave static_graph out"
            )
        place = sum(node.needs_input_grad[1 : 1 + output])  # before the outputs comes DDP itself
        node, output = [edge for edge in node.next_functions if edge[0] is not None][place]
    return node, output


class Walk:
    """A walk down from each loss; tasks that meet are joined (union-find).

    `member` is a task of the component that a common node belongs to.
    """

    def __init__(self, tasks: int) -> None:
        self.owner: dict[Node, int] = {}
        self.member: dict[Node, int] = {}
        self.edges: dict[Node, list[tuple[Node, int]]] = {}
        self.leaves: dict[nn.Parameter, list[tuple[Node, int]]] = defaultdict(list)
        self.parents: dict[Node, list[tuple[Node, int]]] = defaultdict(list)
        self.head = list(range(tasks))

    def find(self, task: int) -> int:
        while self.head[task] != task:
            self.head[task] = self.head[self.head[task]]
            task = self.head[task]
        return task

    def visit(self, root: Node, task: int) -> None:
        """Marks what leads to `task`'s loss; where another task was, all below is common."""
        left = [root]
        while left:
            node = left.pop()
            before = self.owner.get(node)
            if before == task:
                continue
            if before is None:
                self.owner[node] = task
                left += self._below(node, first=True)
                continue
            if before != COMMON:
                self.mark_common(node, before)
            self._join(node, task)

    def mark_common(self, root: Node, task: int | None) -> None:
        left = [root]
        while left:
            node = left.pop()
            before = self.owner.get(node)
            if before == COMMON:
                if task is not None:
                    self._join(node, task)
                continue
            self.owner[node] = COMMON
            if task is not None:
                self.member[node] = task
            left += self._below(node, first=before is None)

    def _join(self, node: Node, task: int) -> None:
        """The component of a common node takes `task` in."""
        if node in self.member:
            self.head[self.find(task)] = self.find(self.member[node])
        else:  # below a cut: the first task that comes by
            left = [node]
            while left:
                here = left.pop()
                if here not in self.member:
                    self.member[here] = task
                    left += self._below(here, first=False)
                else:
                    self.head[self.find(task)] = self.find(self.member[here])

    def _below(self, node: Node, *, first: bool) -> list[Node]:
        found: list[Node] = []
        if first:
            self.edges[node] = edges_of(node)
        for slot, (below, _) in enumerate(self.edges[node]):
            if below is None:
                continue
            variable = getattr(below, "variable", None)
            if variable is not None:
                if first:
                    self.leaves[variable].append((node, slot))
                continue
            if first:
                self.parents[below].append((node, slot))
            found.append(below)
        return found
