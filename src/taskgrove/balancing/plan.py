"""plan: which weights answer with inner products, and the taps that catch inputs and signals.

A weight that only linear layers (or only embeddings) read need not have its task gradients written
out (see `gradients`). Decided by counting products: for one component of tasks that meet, paired
where that is less work than writing them out, else streamed; across components, paired, or written
by ourselves where all tasks have rows of their own, or left to autograd.
Where one weight of a component is streamed its combination takes a second pass anyway, so all of
that component are: signals are dropped as soon as they have been met.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType

from torch import Tensor, nn
from torch.autograd.graph import GradientEdge

from taskgrove.balancing.gradients import Written
from taskgrove.balancing.graph import Graph
from taskgrove.balancing.pairs import Paired, Streamed, between, products, written
from taskgrove.balancing.uses import Tap, Use, uses_of
from taskgrove.balancing.walk import COMMON


@dataclass(frozen=True)
class Planned:
    """A weight's uses, and what keeps their inputs and signals."""

    uses: list[Use]
    gradients: Paired | Streamed | Written


Plan = dict[nn.Parameter, Planned]
Buffers = dict[nn.Parameter, Tensor]


def plan_of(graph: Graph, shared: Mapping[nn.Parameter, int], buffers: Buffers) -> Plan:
    """The weights whose uses are known; all others are left to autograd."""
    uses = {p: found for p in shared if (found := _clean(p, graph)) is not None}
    count = sum(len(component.tasks) for component in graph.components)
    chosen = {p: way for p, of in uses.items() if (way := _way(p, of, graph, count)) is not None}
    again = {graph.home(uses[p][0].node) for p, way in chosen.items() if way == "streamed"}
    plan: dict[nn.Parameter, Planned] = {}
    for parameter, way in chosen.items():
        of = uses[parameter]
        homes = {graph.home(use.node) for use in of}
        if way == "written":
            kept = Written(_buffer(parameter, count, buffers), of[0].flipped)
        elif way == "streamed" or (len(of) == 1 and homes <= again):
            kept = Streamed(count)
        else:
            kept = Paired(parameter.shape, of[0].flipped)
        plan[parameter] = Planned(of, kept)
    return plan


def _buffer(parameter: nn.Parameter, count: int, buffers: Buffers) -> Tensor:
    """Room for `count` rows of a parameter, the same from step to step."""
    room = buffers.get(parameter)
    if room is None or len(room) < count or room.dtype != parameter.dtype:
        room = buffers[parameter] = parameter.detach().new_empty(count, *parameter.shape)
    return room[:count]


def _clean(parameter: nn.Parameter, graph: Graph) -> list[Use] | None:
    """The uses of a weight, where all are of one kind and none lies before tasks meet."""
    uses = uses_of(parameter, graph)
    if uses is None or len({(use.kind, use.flipped) for use in uses}) > 1:
        return None
    for use in uses:
        component = graph.components[graph.home(use.node)]
        if graph.owner[use.node] != COMMON and len(component.tasks) > 1:
            return None
    return uses


def _way(parameter: nn.Parameter, uses: list[Use], graph: Graph, count: int) -> str | None:
    if uses[0].kind == "embedding":
        return "paired"
    out, dim = parameter.shape[::-1] if uses[0].flipped else parameter.shape
    sizes = [(use.rows, len(graph.components[graph.home(use.node)].tasks)) for use in uses]
    if len(sizes) == 1:
        paired, writing = products(sizes[0][0], dim, out, sizes[0][1])
        return "paired" if paired <= writing else ("streamed" if sizes[0][1] > 1 else "written")
    total = sum(rows for rows, _ in sizes)
    signals = sum(rows * tasks for rows, tasks in sizes)
    paired = (
        total * total * dim // 2 + total * signals * out // 2 + signals * signals // total * out
    )
    writing = sum(rows * tasks * dim * out for rows, tasks in sizes if tasks > 1)
    if paired <= writing + count * count * dim * out:
        return "paired"
    return "written" if signals == total else None  # all have rows of their own


class Taps:
    """While open, planned weights' signals are caught; `edges` are those no pass would run into."""

    def __init__(
        self,
        graph: Graph,
        inputs: Sequence[nn.Parameter],
        read: Sequence[nn.Parameter],
        plan: Plan,
        tasks: Sequence[int],
        *,
        batched: bool = False,
    ) -> None:
        given = set(inputs)
        self.tasks = tasks
        self.edges: list[GradientEdge] = []
        self.aside: list[tuple[Use, Paired | Streamed | Written]] = []
        self.taps: list[Tap] = []
        for parameter in read:
            if (planned := plan.get(parameter)) is None:
                continue
            for use in planned.uses:
                if not self._mine(graph, use):
                    continue
                if graph.leads_to(use.node, given):
                    take = self._catcher(use, planned.gradients)
                    self.taps.append(Tap(use.node, take, batched))
                else:
                    self.edges.append(GradientEdge(use.node, 0))
                    self.aside.append((use, planned.gradients))

    def _mine(self, graph: Graph, use: Use) -> bool:
        owner = graph.owner[use.node]
        if owner == COMMON:
            return self.tasks[0] in graph.components[graph.home(use.node)].tasks
        return owner in self.tasks

    def _catcher(
        self, use: Use, gradients: Paired | Streamed | Written
    ) -> Callable[[Tensor], None]:
        return lambda signal: catch(use, gradients, self.tasks, signal)

    def take(self, signals: Sequence[Tensor]) -> None:
        """The signals [m ...] of `edges`, in order."""
        for (use, gradients), signal in zip(self.aside, signals, strict=True):
            if signal.dim() > 1:
                catch(use, gradients, self.tasks, signal)

    def __enter__(self) -> "Taps":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        for tap in self.taps:
            tap.close()


def catch(
    use: Use, gradients: Paired | Streamed | Written, tasks: Sequence[int], signal: Tensor
) -> None:
    """Keeps a use's inputs and signal [m ...], or only what they say of the Gramian."""
    if len(signal) < len(tasks):  # alike for all tasks
        signal = signal.expand(len(tasks), *signal.shape[1:])
    A, D = use.block(signal)
    if isinstance(gradients, Written):
        gradients.write(tasks[0], A, D[0])
        return
    if isinstance(gradients, Paired):
        gradients.blocks.append((tasks, A, D))
        return
    paired, writing = products(len(A), A[0].numel(), D.shape[2], len(D))
    if A.is_floating_point() and paired > writing:
        live = D.any(dim=2).any(dim=0)  # rows that no task heeds, such as padding
        if not live.all():
            A, D = A[live], D[:, live]
            paired, writing = products(len(A), A.shape[1], D.shape[2], len(D))
    met = between(A, D, A, D) if paired <= writing else written(A, D)
    gradients.add(tasks, met)
