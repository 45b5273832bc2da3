"""source: exact task gradients of shared parameters, at the least work the graphs allow.

Read from the losses' graphs (see `graph`), component by component:

- a task with rows of its own: one backward pass through its own graph, never through another's;
- tasks that meet (one input, many labels): one pass over all heads down to the frontier, where each
  task's signal is caught before any sum; then the K signals go through the common part together, as
  one batched pass. Linear layers and embeddings answer with inner products of inputs and signals
  where that is less work than writing gradients out (see `uses`, `gradients`).

All rows are r_t = seed_t g_t, seed_t = share_t times a loss scaler's factor; parameters that are
not shared get their gradient sum_t r_t on the way. Where a batched pass cannot be (a compiled
trunk, a custom function without a batching rule) the signals go through one by one.
"""

from collections.abc import Mapping, Sequence

from torch import nn

from taskgrove.balancing.measured import Asked, Entered, Measured, grad
from taskgrove.balancing.pairs import Streamed
from taskgrove.balancing.plan import Plan, Taps, plan_of
from taskgrove.balancing.signals import enter
from taskgrove.balancing.walk import COMMON


def parameters(asked: Asked, *, write: bool) -> Measured:
    """Rows of all shared parameters; `write`: every one of them held."""
    measured, reads = Measured(), asked.graph.reads()
    mixed = [_mixed(readers) for readers in reads]
    left = {p for readers, yes in zip(reads, mixed, strict=True) if yes for p in readers}
    apart = {p: g for p, g in asked.shared.items() if p not in left}
    plan = {} if write else plan_of(asked.graph, apart, asked.buffers)
    measured.rows |= {parameter: planned.gradients for parameter, planned in plan.items()}
    for component, readers, yes in zip(asked.graph.components, reads, mixed, strict=True):
        if yes or (len(component.tasks) == 1 and not component.frontier):
            _alone(asked, component.tasks, readers, plan, measured)
            continue
        entered = enter(asked, component, readers, measured)
        if entered.signals:
            _through(asked, entered, readers, plan, measured)
            again = [p for p in readers if isinstance(measured.rows.get(p), Streamed)]
            measured.again.append((entered, again))
    return measured


def features(asked: Asked) -> Measured:
    """Signals alone: the gradients at the places where tasks meet."""
    measured, reads = Measured(), asked.graph.reads()
    apart = [c.tasks[0] for c in asked.graph.components if not c.frontier]
    alone = [task for task in apart if asked.losses[task].requires_grad]
    if alone and len(asked.losses) > 1:
        raise ValueError(
            f"the loss of task {alone[0]} meets no other task's, so where its features"
            ' are cannot be seen; give features=[...] (the trunk\'s outputs), or level="parameters"'
        )
    if any(_mixed(readers) for readers in reads):
        raise ValueError(
            "a parameter is read both before and after the features, such as a tied weight:"
            ' signals at the features do not say all of its gradient; use level="parameters"'
        )
    for component, readers in zip(asked.graph.components, reads, strict=True):
        if not component.frontier:
            _alone(asked, component.tasks, readers, {}, measured)
            continue
        entered = enter(asked, component, readers, measured)
        if entered.signals:
            again = [p for p, owners in readers.items() if COMMON in owners]
            measured.again.append((entered, again))
    return measured


def _mixed(readers: Mapping[nn.Parameter, set[int]]) -> bool:
    """Whether a parameter is read both before and after tasks meet, such as a tied weight."""
    return any(COMMON in owners and len(owners) > 1 for owners in readers.values())


def _through(
    asked: Asked,
    entered: Entered,
    readers: Mapping[nn.Parameter, set[int]],
    plan: Plan,
    measured: Measured,
) -> None:
    """The signals through the common part, batched where that can be."""
    common = [p for p, owners in readers.items() if COMMON in owners]
    if not common:
        return
    with measured.undone_on_error(common, plan):
        _batched(asked, entered, common, plan, measured)
        return
    for place, task in enumerate(entered.tasks):
        found = entered.single(common, place)
        for parameter, gradient in zip(common, found, strict=True):
            measured.keep(parameter, [task], gradient[None], parameter in asked.shared)


def _batched(
    asked: Asked,
    entered: Entered,
    common: Sequence[nn.Parameter],
    plan: Plan,
    measured: Measured,
) -> None:
    inputs = [p for p in common if p not in plan]
    with Taps(asked.graph, inputs, common, plan, entered.tasks, batched=True) as taps:
        found = entered.down([*inputs, *taps.edges])
        taps.take(found[len(inputs) :])
    for parameter, rows in zip(inputs, found, strict=False):
        measured.keep(parameter, entered.tasks, rows, parameter in asked.shared)


def _alone(
    asked: Asked,
    tasks: Sequence[int],
    readers: Mapping[nn.Parameter, set[int]],
    plan: Plan,
    measured: Measured,
) -> None:
    """A backward pass a task, through the graph of its own loss."""
    for task in tasks:
        if not asked.losses[task].requires_grad or not readers:
            continue
        with measured.undone_on_error(readers, plan):
            _pass_alone(asked, task, task == tasks[-1], readers, plan, measured)
            continue
        _pass_alone(asked, task, task == tasks[-1], readers, plan, measured)


def _pass_alone(
    asked: Asked,
    task: int,
    last: bool,
    readers: Mapping[nn.Parameter, set[int]],
    plan: Plan,
    measured: Measured,
) -> None:
    inputs = [p for p in readers if p not in plan]
    with Taps(asked.graph, inputs, list(readers), plan, [task]) as taps:
        retain = asked.retain or not last or bool(taps.taps or taps.edges)
        found = grad(
            asked.losses[task], [*inputs, *taps.edges], asked.seeds[task],
            retain_graph=retain, allow_unused=True,
        )  # fmt: skip
        taps.take([g[None] for g in found[len(inputs) :] if g is not None])
    for parameter, gradient in zip(inputs, found, strict=False):
        if gradient is not None:
            measured.keep(parameter, [task], gradient[None], parameter in asked.shared)
