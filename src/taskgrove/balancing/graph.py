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
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from taskgrove.balancing.walk import COMMON, Node, Walk, edge_of


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
    edges: Mapping[Node, list[tuple[Node, int]]]

    def leads_to(self, node: Node, parameters: Container[nn.Parameter]) -> bool:
        """Whether a backward pass to `parameters` runs through the node."""
        left, seen = [node], {node}
        while left:
            for below, _ in self.edges[left.pop()]:
                variable = getattr(below, "variable", None)
                if variable is not None and variable in parameters:
                    return True
                if variable is None and below is not None and below not in seen:
                    seen.add(below)
                    left.append(below)
        return False

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
    walk = Walk(len(losses))
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
            for slot, (below, output) in enumerate(walk.edges[node]):
                if walk.owner.get(below) == COMMON:
                    edges = frontier[number[walk.find(task)]]
                    edges[below, output].append(Entry(task, node, slot))
    components = [Component(t, e) for t, e in zip(groups.values(), frontier, strict=True)]

    def home(node: Node) -> int:
        task = walk.owner[node]
        return number[walk.find(walk.member[node] if task == COMMON else task)]

    for edges in walk.leaves.values():  # below a cut that no loss uses
        edges[:] = [edge for edge in edges if edge[0] in walk.member or walk.owner[edge[0]] >= 0]

    return Graph(walk.owner, home, components, walk.leaves, walk.parents, walk.edges)
