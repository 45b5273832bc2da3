"""graph: where the graphs of K losses meet.

Read from autograd's graph itself, so nothing is registered on a user's model and any way to use a
parameter counts. A node that leads to one loss only is that task's *own*; a node that leads to
several is *common*. The edges from own nodes into common ones are the *frontier*: all that a task
says to the common part goes through them, and what goes through them is its signal (for one input
with many heads: dL_t/dz at the features z). Tasks whose graphs meet are a *component*; a task with
rows of its own is a component alone and has no frontier. Parameters are leaves, not nodes.
Cost: each node is visited at most twice, whatever K.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

Node = Any  # torch.autograd.graph.Node
COMMON = -1


@dataclass(frozen=True)
class Entry:
    """The place where task `task` enters a common node: input `slot` of its own node `source`.

    `source` is None where the loss itself is an output of a common node.
    """

    task: int
    source: Node | None
    slot: int


@dataclass(frozen=True)
class Component:
    """Tasks whose graphs meet, and the edges (node, output) through which each of them enters."""

    tasks: list[int]
    frontier: Mapping[tuple[Node, int], list[Entry]]


@dataclass(frozen=True)
class Graph:
    """The graphs of the losses; `leaves` holds each parameter's incoming edges (node, slot)."""

    owner: Mapping[Node, int]  # a task, or COMMON
    home: Callable[[Node], int]  # the number of a node's component
    components: Sequence[Component]
    leaves: Mapping[nn.Parameter, list[tuple[Node, int]]]
    parents: Mapping[Node, list[tuple[Node, int]]]

    def reads(self) -> list[dict[nn.Parameter, set[int]]]:
        """What each component reads: parameters, each with the tasks or COMMON that read it."""
        found: list[dict[nn.Parameter, set[int]]] = [{} for _ in self.components]
        for parameter, edges in self.leaves.items():
            for node, _ in edges:
                found[self.home(node)].setdefault(parameter, set()).add(self.owner[node])
        return found

    def shared(self) -> list[nn.Parameter]:
        """Parameters that serve more than one of the losses."""
        owners = {p: {self.owner[n] for n, _ in edges} for p, edges in self.leaves.items()}
        many = [p for p, found in owners.items() if len(found) > 1 or COMMON in found]
        return [p for p in many if isinstance(p, nn.Parameter)]


def graph_of(losses: Sequence[Tensor], cut: Sequence[Tensor] = ()) -> Graph:
    """The graph of scalar losses; nodes from the tensors `cut` downwards count as common."""
    walk = _Walk(len(losses))
    for tensor in cut:
        walk.mark_common(edge_of(tensor)[0], None)
    roots = [edge_of(loss) for loss in losses]
    for task, (node, _) in enumerate(roots):
        if node is not None:
            walk.visit(node, task)
    groups: dict[int, list[int]] = defaultdict(list)
    for task in range(len(losses)):
        groups[walk.find(task)].append(task)
    number = {head: place for place, head in enumerate(groups)}
    frontier: list[dict[tuple[Node, int], list[Entry]]] = [defaultdict(list) for _ in groups]
    for task, root in enumerate(roots):
        if walk.owner.get(root[0]) == COMMON:
            frontier[number[walk.find(task)]][root].append(Entry(task, None, 0))
    for node, task in walk.owner.items():
        if task != COMMON:
            for slot, (below, output) in enumerate(edges_of(node)):
                if walk.owner.get(below) == COMMON:
                    edges = frontier[number[walk.find(task)]]
                    edges[below, output].append(Entry(task, node, slot))
    components = [Component(t, e) for t, e in zip(groups.values(), frontier, strict=True)]

    def home(node: Node) -> int:
        task = walk.owner[node]
        return number[walk.find(walk.member[node] if task == COMMON else task)]

    for edges in walk.leaves.values():  # below a cut that no loss uses
        edges[:] = [edge for edge in edges if edge[0] in walk.member or walk.owner[edge[0]] >= 0]

    return Graph(walk.owner, home, components, walk.leaves, walk.parents)


def edge_of(tensor: Tensor) -> tuple[Node, int]:
    """The node that made a tensor (None where there is no graph), and which of its outputs."""
    return _passed(tensor.grad_fn, tensor.output_nr)


def edges_of(node: Node) -> list[tuple[Node, int]]:
    """A node's edges downwards, by slot."""
    return [_passed(*edge) for edge in node.next_functions]


def _passed(node: Node, output: int) -> tuple[Node, int]:
    """Looks through a node of DDP's (find_unused_parameters) that hands all outputs on as is."""
    while node is not None and node.name() == "_DDPSinkBackward":
        if node.ddp_weakref().static_graph:
            raise ValueError(
                "DDP(static_graph=True) counts backward passes and takes the one that looks at task"
                " gradients for the real one; leave static_graph out"
            )
        place = sum(node.needs_input_grad[1 : 1 + output])  # before the outputs comes DDP itself
        node, output = [edge for edge in node.next_functions if edge[0] is not None][place]
    return node, output


class _Walk:
    """A walk down from each loss; tasks that meet are joined (union-find).

    `member` is a task of the component that a common node belongs to.
    """

    def __init__(self, tasks: int) -> None:
        self.owner: dict[Node, int] = {}
        self.member: dict[Node, int] = {}
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
        edges = [
            (slot, below) for slot, (below, _) in enumerate(edges_of(node)) if below is not None
        ]
        for slot, below in edges:
            variable = getattr(below, "variable", None)
            if variable is not None:
                if first:
                    self.leaves[variable].append((node, slot))
                continue
            if first:
                self.parents[below].append((node, slot))
            found.append(below)
        return found
