"""flows: the three ways through a step, by what a method must see.

`by_losses`: one backward pass of sum_t w_t L_t. `by_gradients`: task gradients, their statistic,
weights, one combination. `as_before`: the last weights, at the price of a plain step. Sums over the
parts of a batch and over processes are taken of losses and rows before anything is weighed, so the
result is that of the one joined batch. Symbols: rows r_t = share_t g_t; c = w / share [group task].
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float64
from torch import Tensor, nn

from taskgrove.balancing import apply, source
from taskgrove.balancing.batch import Balanced, Batch, Bound, is_sharded, refuse
from taskgrove.balancing.by_rows import by_rows
from taskgrove.balancing.graph import Graph, graph_of
from taskgrove.balancing.joined import joined, reduce_all, reduce_rows
from taskgrove.balancing.measured import Asked, Measured
from taskgrove.balancing.weigh import weigh


def by_losses(bound: Bound, batch: Batch) -> Balanced:
    """Weights from the losses, then one ordinary backward pass a part."""
    whole = batch.parts[0]() if len(batch.parts) == 1 else None
    if whole is not None:
        losses = batch.reduced(whole)
    elif bound.choice.needs == "losses":  # the joined losses must be known first: forward only
        with torch.no_grad():
            losses = sum((batch.reduced(part()) for part in batch.parts), torch.zeros(()))
    else:
        losses = torch.zeros(len(batch.tasks), dtype=torch.float64)
    gramian = None
    if whole is not None and bound.watch and batch.number % bound.watch == 0:
        graph, measured = _measure(bound, batch, whole, retain=True)
        shared = _shared(bound, graph)
        reduce_rows(batch, measured, shared)
        gramian = _gramians(bound, batch, measured, shared)[0]
    weighed = weigh(bound.weightings[0], batch.statistic(losses))
    seen = torch.zeros(len(batch.tasks), dtype=torch.float64)
    for part in batch.parts:
        found = part() if whole is None else whole
        seen += batch.reduced(found) if whole is None else losses
        _backward(batch, batch.total(weighed.weights, found))
    reduce_all(bound, batch)
    if weighed.objective is not None:
        _backward(batch, batch.scale(weighed.objective))
    return Balanced(batch.tasks, batch.share, weighed.weights, seen, gramian, weighed.fallback)


def as_before(bound: Bound, batch: Batch) -> Balanced:
    """One ordinary backward pass under the last weights; a task without one keeps its share."""
    c = torch.tensor([bound.last.get(task, 1.0) for task in batch.tasks], dtype=torch.float64)
    losses = torch.zeros(len(batch.tasks), dtype=torch.float64)
    for part in batch.parts:
        found = part()
        losses += batch.reduced(found)
        graph, shared = _read(bound, batch, found)
        apply.carried(graph, shared)
        with apply.scaled(graph, shared, c):
            _backward(batch, batch.total(batch.share * apply.roots(graph, found, c), found))
    reduce_all(bound, batch)
    return Balanced(batch.tasks, batch.share, c * batch.share, losses)


def by_gradients(bound: Bound, batch: Batch) -> Balanced:
    """Rows of the joined batch, their Gramian, weights, one combination."""
    refuse(bound, batch)
    if bound.level == "parameters" and is_sharded([p for g in bound.groups for p in g]):
        from taskgrove.balancing import sharded

        return sharded.by_shards(bound, batch)
    losses = torch.zeros(len(batch.tasks), dtype=torch.float64)
    measured, found, graph = Measured(), list[Tensor](), None
    for part in batch.parts:
        found = list(part())
        losses += batch.reduced(found)
        graph, more = _measure(bound, batch, found, retain=batch.backward is not None)
        measured = more if len(batch.parts) == 1 else joined(measured, more, len(found))
    assert graph is not None
    shared = _shared(bound, graph)
    if bound.level == "parameters":
        reduce_rows(batch, measured, shared)
    if bound.choice.needs == "rows":
        return by_rows(bound, batch, measured, shared, losses)
    gramians = _gramians(bound, batch, measured, shared)
    weighed = [
        weigh(weighting, batch.statistic(losses, gramian))
        for weighting, gramian in zip(bound.weightings, gramians, strict=True)
    ]
    c = torch.stack([w.weights / batch.share for w in weighed])
    bound.last.update(zip(batch.tasks, c[0].tolist(), strict=True))
    if batch.backward is None:
        apply.add(measured.plain)
        apply.add(apply.combine(measured, shared, c))
        reduce_all(bound, batch, shared_too=bound.level == "features")
    else:
        with apply.scaled(graph, shared, c[0]):
            roots = apply.roots(graph, found, c[0])
            _backward(batch, batch.total(batch.share * roots, found))
    for one in weighed:
        if one.objective is not None:
            _backward(batch, batch.scale(one.objective))
    fallback = any(one.fallback for one in weighed)
    return Balanced(batch.tasks, batch.share, weighed[0].weights, losses, gramians[0], fallback)


@torch.no_grad()
def _measure(
    bound: Bound, batch: Batch, losses: Sequence[Tensor], *, retain: bool
) -> tuple[Graph, Measured]:
    graph, shared = _read(bound, batch, losses)
    if batch.backward is not None or bound.every > 1:
        apply.carried(graph, shared)
    seeds = batch.scale(batch.share.to(losses[0].device)).unbind()
    seeds = [seed.to(loss.dtype) for seed, loss in zip(seeds, losses, strict=True)]
    asked = Asked(losses, seeds, graph, shared, retain, bound.buffers)
    if bound.level == "features":
        return graph, source.features(asked)
    many = len(batch.parts) > 1 or batch.all_reduce is not None
    return graph, source.parameters(asked, write=many or bound.choice.needs == "rows")


def _read(
    bound: Bound, batch: Batch, losses: Sequence[Tensor]
) -> tuple[Graph, dict[nn.Parameter, int]]:
    """The losses' graph and the shared parameters in it."""
    graph = graph_of(losses, batch.features if bound.level == "features" else ())
    shared = _shared(bound, graph)
    if not any(p in graph.leaves for p in shared) and (common := graph.shared()):
        raise ValueError(
            f"no loss reads a parameter of shared=, while the tasks meet in {len(common)} others;"
            " give the parameters that the forward pass uses (those after .to() or a wrapper)"
        )
    return graph, shared


def _shared(bound: Bound, graph: Graph) -> dict[nn.Parameter, int]:
    """Each shared parameter's group."""
    every = [p for group in bound.groups for p in group]
    if not every:
        return dict.fromkeys(graph.shared(), 0)
    if is_sharded(every):
        from taskgrove.balancing import sharded

        return dict.fromkeys(sharded.gathered(graph, every), 0)
    return {p: number for number, group in enumerate(bound.groups) for p in group}


@torch.no_grad()
def _gramians(
    bound: Bound, batch: Batch, measured: Measured, shared: dict[nn.Parameter, int]
) -> list[Float64[Tensor, "task task"]]:
    """M of the joined batch, one a group; the rows' shares are divided out."""
    count = len(batch.tasks)
    found = [torch.zeros(count, count, dtype=torch.float64) for _ in bound.weightings]
    if bound.level == "features":
        for entered, _ in measured.again:
            found[0] += entered.gramian(count).cpu()
        if batch.all_reduce is not None:  # examples are divided over processes: their sums add up
            device = measured.again[0][0].device if measured.again else torch.device("cpu")
            moved = found[0].to(device)
            batch.all_reduce(moved)
            found[0] = moved.cpu()
    for parameter, rows in measured.rows.items():
        if bound.level == "parameters" or not measured.again:
            found[shared[parameter]] += rows.gramian(count).cpu()
    return [M / torch.outer(batch.share, batch.share) / batch.factor**2 for M in found]


def _backward(batch: Batch, total: Tensor) -> None:
    if total.requires_grad:
        (batch.backward or torch.autograd.backward)(total)
