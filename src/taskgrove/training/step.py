"""One training step: rows -> batch parts -> losses -> balanced gradient -> AdamW.

The joined batch of all processes is what counts: losses are sums over a part's rows divided by the
joined batch's count of the task, so that parts (accumulation) and processes add up to it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from taskgrove.balancing import Balanced, Balancer
from taskgrove.balancing.task_sam import TaskSAM
from taskgrove.errors import TaskgroveError
from taskgrove.objectives.supervised import LOSSES
from taskgrove.sharing.model import MultiTaskModel
from taskgrove.training.asked import asked
from taskgrove.training.batch import Feed
from taskgrove.training.budget import BACKWARD, FORWARD
from taskgrove.training.optimiser import only
from taskgrove.training.options import Options
from taskgrove.training.processes import all_reduce, number_type, processes, this_device
from taskgrove.training.slots import SlotAdamW


@dataclass(frozen=True)
class Stepper:
    """What stays the same from step to step."""

    model: MultiTaskModel
    feed: Feed
    balancer: Balancer | TaskSAM
    optimiser: SlotAdamW
    places: dict[nn.Parameter, int]  # of each parameter's group in the optimiser
    scaler: torch.amp.GradScaler  # pyright: ignore[reportPrivateImportUsage]
    options: Options


def take_step(
    stepper: Stepper, tables: np.ndarray, rows: np.ndarray, step: int
) -> tuple[dict[str, float], Balanced]:
    """Moves the weights by the batch of a plan; returns losses by task and what was balanced.

    Raises TaskgroveError when a loss or the gradient is no finite number, before any weight moves.
    """
    counts = {task: len(places) for task, places in stepper.feed.labels(tables, rows)}
    names = list(counts)
    numbers = [stepper.model.number[name] for name in names]
    labels = [counts[name] * stepper.model.tasks[name].weight for name in names]
    shared = [p for p in stepper.model.common.parameters() if p.requires_grad]
    own = [p for name in names for p in stepper.model.head(name).parameters()]
    features: list[Tensor] = []
    parts = _parts(stepper, tables, rows, counts, features)
    balancer, weights, scale = stepper.balancer, torch.tensor(labels), stepper.scaler.scale
    joined = all_reduce if processes().num_processes > 1 else None
    if isinstance(balancer, TaskSAM):
        balanced = balancer.run(parts, numbers, weights, own=own, scale=scale, all_reduce=joined)
    else:
        balanced = balancer.run(
            parts, numbers, weights, own=own, features=features, scale=scale, all_reduce=joined
        )
    found = dict(zip(names, balanced.losses.tolist(), strict=True))
    _refuse_infinite(found, step)
    learned = [p for module in balancer.modules for p in module.parameters()]
    present = [stepper.model.slot[name] for name in names]
    _move(stepper, [*shared, *own, *learned], found, step, present)
    if isinstance(balancer, Balancer) and balancer.choice.again:
        balancer.observe(numbers, _looked_at(parts))
    return found, balanced


def _looked_at(parts: Sequence[Callable[[], list[Tensor]]]) -> Tensor:
    """The joined batch's losses, forward only."""
    with torch.no_grad():
        losses = torch.stack([torch.stack(part()) for part in parts]).sum(0).double()
    all_reduce(losses)
    return losses


def _move(
    stepper: Stepper,
    parameters: Sequence[nn.Parameter],
    losses: Mapping[str, float],
    step: int,
    present: Sequence[int],
) -> None:
    """Clips the gradients, takes AdamW's step and drops the gradients."""
    scaler, optimiser = stepper.scaler, stepper.optimiser
    optimiser.present = present
    with only(optimiser, parameters, stepper.places):
        scaler.unscale_(optimiser)
        norm = nn.utils.clip_grad_norm_(parameters, stepper.options.clip)
        if not scaler.is_enabled() and not torch.isfinite(norm):
            worst = max(losses, key=lambda name: losses[name])
            raise DivergedError(worst, step, f"the gradient's norm is {norm.item()}")
        scaler.step(optimiser)
        scaler.update()
    for parameter in parameters:
        parameter.grad = None


def passes(stepper: Stepper, tables: np.ndarray, rows: np.ndarray) -> float:
    """Forward and backward passes of a plan: one backward a row, or one a task of its table."""
    balancer = stepper.balancer
    climb = FORWARD + BACKWARD if isinstance(balancer, TaskSAM) else 0.0  # of each task once more
    look = FORWARD if balancer.choice.again else 0.0
    if isinstance(balancer, Balancer):
        if not balancer.sees_gradients or balancer.level == "features":
            return len(rows) * (FORWARD + BACKWARD + look)
        if balancer.steps % balancer.every and balancer.last:
            return len(rows) * (FORWARD + BACKWARD)
    total = 0.0
    for table in np.unique(tables):
        here = tables == table
        tasks = len(stepper.feed.labels(tables[here], rows[here]))
        total += here.sum() * (FORWARD + (BACKWARD + climb) * tasks)
    return float(total)


class DivergedError(TaskgroveError):
    """A run that left the finite numbers; the sentence lacks only where its checkpoint lies."""

    def __init__(self, task: str, step: int, what: str) -> None:
        super().__init__(
            f'training diverged at step {step}: task "{task}": {what}; lower the learning rate, or'
            " look for extreme values in this task's rows; the last good checkpoint is kept in"
        )


def _refuse_infinite(losses: dict[str, float], step: int) -> None:
    for task, loss in losses.items():
        if not np.isfinite(loss):
            raise DivergedError(task, step, f"its loss is {loss}")


def _parts(
    stepper: Stepper,
    tables: np.ndarray,
    rows: np.ndarray,
    counts: dict[str, int],
    seen: list[Tensor],
) -> list[Callable[..., list[Tensor]]]:
    """This process's parts of the batch, each as a function that computes its losses."""
    here = processes()
    mine = np.arange(len(rows))[here.process_index :: here.num_processes]
    parts = np.array_split(mine, min(stepper.options.accumulate, len(mine)))
    each = partial(_losses, stepper, seen=seen, part=1 / (len(parts) * here.num_processes))
    every = list(stepper.model.tasks)
    once = partial(asked, each, stepper.feed, every)
    return [partial(once, tables[part], rows[part], counts) for part in parts]


def _losses(
    stepper: Stepper,
    tables: np.ndarray,
    rows: np.ndarray,
    counts: dict[str, int],
    seen: list[Tensor],
    part: float,
) -> list[Tensor]:
    """One loss a task of the joined batch; `seen` holds the trunk's features afterwards.

    Where task gradients are seen each table has a graph of its own, and each head, so that a task's
    backward never runs through another table's rows. A step that is only watched has heads apart.
    """
    balancer, device, watch = stepper.balancer, this_device(), stepper.options.watch
    apart = balancer.sees_gradients or (watch > 0 and (balancer.steps - 1) % watch == 0)
    losses = dict.fromkeys(counts, torch.zeros((), device=device))
    groups = [tables == t for t in np.unique(tables)] if balancer.sees_gradients else [slice(None)]
    seen.clear()
    kind = number_type(stepper.options.precision, device)
    prepare = stepper.model.trunk(next(iter(counts))).prepare
    for group in groups:
        if len(rows[group]):
            batch = stepper.feed.batch(prepare, tables[group], rows[group]).to(device)
            with torch.autocast(device.type, kind, enabled=kind != torch.float32):
                outputs = stepper.model(batch.inputs, batch.route, apart=apart, seen=seen)
            found = _task_losses(stepper.model, outputs, batch.targets, counts, apart)
            losses |= _with_routers(stepper, found, part)
    return list(losses.values())


def _with_routers(stepper: Stepper, losses: dict[str, Tensor], part: float) -> dict[str, Tensor]:
    """What routers add to the loss, on each present task, whose shares sum to 1; `part` is this
    part's share of the joined batch."""
    sharing = stepper.model.sharing
    more = None if sharing is None else sharing.loss()
    return losses if more is None else {n: loss + part * more for n, loss in losses.items()}


def _task_losses(
    model: MultiTaskModel,
    outputs: Mapping[str, Tensor],
    targets: Mapping[str, Tensor],
    counts: Mapping[str, int],
    apart: bool,
) -> dict[str, Tensor]:
    """Sum of the rows' losses over the task's count; tasks of a kind together, or each apart."""
    if apart:
        return {
            name: LOSSES[model.tasks[name].kind](output, targets[name]).sum() / counts[name]
            for name, output in outputs.items()
        }
    alike: dict[tuple[str, int], list[str]] = {}
    for name in outputs:
        task = model.tasks[name]
        alike.setdefault((task.kind, task.outputs), []).append(name)
    losses: dict[str, Tensor] = {}
    for (kind, _), names in alike.items():
        output = torch.cat([outputs[name] for name in names])  # [entry out]
        loss = LOSSES[kind](output, torch.cat([targets[name] for name in names]))  # [entry]
        sums = [part.sum() for part in loss.split([len(outputs[name]) for name in names])]
        count = loss.new_tensor([counts[name] for name in names])
        losses |= dict(zip(names, (torch.stack(sums) / count).unbind(), strict=True))
    return losses
