"""sharded: exact task gradients of parameters that are sharded over processes (FSDP's fully_shard).

FSDP gathers weights and scatters their gradients in ordinary backward passes only, so K of them are
made, one a task; what each leaves in `.grad` is this process's shard of r_t, and is kept as a row.
Shards are disjoint pieces of the rows: their inner products add up over the processes that hold
them, and the combination sum_t c_t r_t needs no other process. Parameters that are not shared get
their gradient sum_t r_t on the way. Symbols as in `gradients`; cost: K backward passes.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from taskgrove.balancing import apply
from taskgrove.balancing.batch import Balanced, Batch, Bound
from taskgrove.balancing.gradients import Held
from taskgrove.balancing.graph import Graph
from taskgrove.balancing.weigh import weigh

Rows = dict[nn.Parameter, Held]


def by_shards(bound: Bound, batch: Batch) -> Balanced:
    """The step of `flows.by_gradients` on sharded parameters."""
    assert batch.backward is not None
    losses, count = batch.parts[0](), len(batch.tasks)
    seen = batch.reduced(losses)
    shared = [p for group in bound.groups for p in group]
    seeds = batch.share * factor(batch, losses[0])
    found = rows(losses, seeds, shared)
    gramians = [gramian(found, group, count) for group in bound.groups]
    shares = torch.outer(seeds, seeds)
    weighed = [
        weigh(weighting, batch.statistic(seen, M / shares))
        for weighting, M in zip(bound.weightings, gramians, strict=True)
    ]
    for group, one in zip(bound.groups, weighed, strict=True):
        apply.add(combine({p: found[p] for p in group}, one.weights / batch.share))
        if one.objective is not None:
            batch.backward(batch.scale(one.objective))
    bound.last.update(zip(batch.tasks, (weighed[0].weights / batch.share).tolist(), strict=True))
    fallback = any(one.fallback for one in weighed)
    return Balanced(
        batch.tasks, batch.share, weighed[0].weights, seen, gramians[0] / shares, fallback
    )


def factor(batch: Batch, loss: Tensor) -> float:
    """What the loop's own `backward` multiplies a loss by, such as a loss scaler's factor."""
    probe = torch.ones((), device=loss.device, requires_grad=True)
    assert batch.backward is not None
    batch.backward(batch.scale(probe * 1))
    assert probe.grad is not None
    return probe.grad.item()


def rows(losses: Sequence[Tensor], seeds: Tensor, shared: Sequence[nn.Parameter]) -> Rows:
    """r_t = seed_t g_t of the shared parameters, from one ordinary backward pass a task."""
    found: Rows = {parameter: Held() for parameter in shared}
    before = {parameter: parameter.grad for parameter in shared}
    for task, (loss, seed) in enumerate(zip(losses, seeds, strict=True)):
        if loss.grad_fn is None:
            raise ValueError(
                f"the loss of present task {task} has no graph on this process, so its backward"
                " pass cannot meet the other processes'; let each process compute every present"
                " task, with a loss of 0 * output.sum() where it has no rows"
            )
        for parameter in shared:
            parameter.grad = None
        torch.autograd.backward(loss, seed.to(loss), retain_graph=task < len(losses) - 1)
        for parameter in shared:
            if parameter.grad is not None:
                found[parameter].blocks.append(([task], local(parameter.grad, parameter)[None]))
    for parameter, gradient in before.items():
        parameter.grad = gradient
    if not any(held.blocks for held in found.values()):
        raise ValueError(
            "backward passes left no gradient in the shared parameters: no loss reads them, or"
            " gradients are not reduced in this step (no_sync, accelerator.accumulate), which"
            ' level="parameters" cannot do without under sharding'
        )
    return found


def gramian(found: Rows, group: Sequence[nn.Parameter], count: int) -> Float64[Tensor, "task task"]:
    """M of whole rows, from every process's shards."""
    total = torch.zeros(count, count, dtype=torch.float64)
    for (mesh, *placements), members in _alike(group).items():
        part = torch.zeros(count, count, dtype=torch.float64)
        for parameter in members:
            if found[parameter].blocks:
                part += found[parameter].gramian(count).cpu()
        moved = part.to(mesh.device_type)
        for axis, placement in enumerate(placements):
            if not placement.is_replicate():
                torch.distributed.all_reduce(moved, group=mesh.get_group(axis))
        total += moved.cpu()
    return total


def combine(found: Rows, c: Tensor) -> dict[nn.Parameter, Tensor]:
    """sum_t c_t r_t, sharded as the parameters are."""
    return {p: scattered(held.combined(c), p) for p, held in found.items() if held.blocks}


def gathered(graph: Graph, shared: Sequence[nn.Parameter]) -> list[nn.Parameter]:
    """The whole parameters in a graph that stand for sharded ones, which are in none."""
    found = graph.shared()
    left = [tuple(parameter.shape) for parameter in shared]
    for parameter in found:
        if tuple(parameter.shape) not in left:
            raise ValueError(
                f"several tasks read a parameter of shape {list(parameter.shape)} that is not in"
                " shared=; where parameters are sharded, one ordinary backward pass can only weigh"
                " all that tasks share"
            )
        left.remove(tuple(parameter.shape))
    return found


def local(gradient: Tensor, parameter: nn.Parameter) -> Tensor:
    """This process's shard of a gradient, cut as its parameter is."""
    assert isinstance(gradient, DTensor)
    assert isinstance(parameter, DTensor)
    return gradient.redistribute(parameter.device_mesh, parameter.placements).to_local()


def scattered(piece: Tensor, parameter: nn.Parameter) -> Tensor:
    """A gradient of which this process holds a piece, cut as its parameter is."""
    assert isinstance(parameter, DTensor)
    mesh, placements = parameter.device_mesh, parameter.placements
    shape, stride = parameter.shape, parameter.stride()
    return DTensor.from_local(piece, mesh, placements, run_check=False, shape=shape, stride=stride)


def _alike(group: Sequence[nn.Parameter]) -> dict[tuple[Any, ...], list[nn.Parameter]]:
    """Parameters by how they lie over the processes: their mesh and, for each axis, a placement."""
    found: dict[tuple[Any, ...], list[nn.Parameter]] = {}
    for parameter in group:
        assert isinstance(parameter, DTensor)
        found.setdefault((parameter.device_mesh, *parameter.placements), []).append(parameter)
    return found
