"""One training step: rows -> batch parts -> losses -> balanced gradient -> AdamW.

The joined batch of all processes is what counts: losses are sums over a part's rows divided by the
joined batch's count of the task, so that parts (accumulation) and processes add up to it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from torch import Tensor, nn

from taskgrove.balancing import Balancer, balance
from taskgrove.errors import TaskgroveError
from taskgrove.objectives.supervised import LOSSES
from taskgrove.sharing.model import MultiTaskModel
from taskgrove.training.batch import Feed
from taskgrove.training.budget import BACKWARD, FORWARD
from taskgrove.training.optimiser import only
from taskgrove.training.options import Options
from taskgrove.training.processes import all_reduce, number_type, processes, this_device


@dataclass(frozen=True)
class Stepper:
    """What stays the same from step to step."""

    model: MultiTaskModel
    feed: Feed
    balancer: Balancer
    optimiser: torch.optim.Optimizer
    places: dict[nn.Parameter, int]  # of each parameter's group in the optimiser
    scaler: torch.amp.GradScaler  # pyright: ignore[reportPrivateImportUsage]
    options: Options


def take_step(
    stepper: Stepper, tables: np.ndarray, rows: np.ndarray, step: int
) -> tuple[dict[str, float], dict[str, float]]:
    """Moves the weights by the batch of a plan; returns losses and weights by task.

    Raises TaskgroveError when a loss or the gradient is no finite number, before any weight moves.
    """
    counts = {task: len(places) for task, places in stepper.feed.labels(tables, rows)}
    names, device = list(counts), this_device()
    number = torch.tensor([stepper.model.number[name] for name in names], device=device)
    labels = [counts[name] * stepper.model.tasks[name].weight for name in names]
    share = torch.tensor(labels, dtype=torch.float32, device=device)
    share /= share.sum()
    shared = [p for p in stepper.model.trunks.parameters() if p.requires_grad]
    own = [list(stepper.model.head(name).parameters()) for name in names]
    weights, losses = balance(
        stepper.balancer,
        _parts(stepper, tables, rows, counts),
        share,
        number,
        step,
        shared=shared,
        own=own,
        scale=stepper.scaler.scale,
        all_reduce=all_reduce if processes().num_processes > 1 else None,
    )
    found = dict(zip(names, losses.tolist(), strict=True))
    _refuse_infinite(found, step)
    learned = [p for module in stepper.balancer.modules() for p in module.parameters()]
    _move(stepper, [*shared, *chain(*own), *learned], found, step)
    return found, dict(zip(names, weights.tolist(), strict=True))


def _move(
    stepper: Stepper, parameters: Sequence[nn.Parameter], losses: Mapping[str, float], step: int
) -> None:
    """Clips the gradients, takes AdamW's step and drops the gradients."""
    scaler, optimiser = stepper.scaler, stepper.optimiser
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
    if not stepper.balancer.gramian:
        return len(rows) * (FORWARD + BACKWARD)
    total = 0.0
    for table in np.unique(tables):
        here = tables == table
        tasks = len(stepper.feed.labels(tables[here], rows[here]))
        total += here.sum() * (FORWARD + BACKWARD * tasks)
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
    stepper: Stepper, tables: np.ndarray, rows: np.ndarray, counts: dict[str, int]
) -> Iterator[Callable[[], list[Tensor]]]:
    """This process's parts of the batch, each as a function that computes its losses."""
    here = processes()
    mine = np.arange(len(rows))[here.process_index :: here.num_processes]
    for part in np.array_split(mine, min(stepper.options.accumulate, len(mine))):
        yield lambda part=part: _losses(stepper, tables[part], rows[part], counts)


def _losses(
    stepper: Stepper, tables: np.ndarray, rows: np.ndarray, counts: dict[str, int]
) -> list[Tensor]:
    """One loss a task of the joined batch.

    With a Gramian each table has a graph of its own, so that a task's backward never runs through
    another table's rows.
    """
    device = this_device()
    losses = dict.fromkeys(counts, torch.zeros((), device=device))
    groups = [tables == t for t in np.unique(tables)] if stepper.balancer.gramian else [slice(None)]
    kind = number_type(stepper.options.precision, device)
    prepare = stepper.model.trunk(next(iter(counts))).prepare
    for group in groups:
        if len(rows[group]):
            batch = stepper.feed.batch(prepare, tables[group], rows[group]).to(device)
            with torch.autocast(device.type, kind, enabled=kind != torch.float32):
                outputs = stepper.model(batch.inputs, batch.route)
            losses |= _task_losses(stepper.model, outputs, batch.targets, counts)
    return list(losses.values())


def _task_losses(
    model: MultiTaskModel,
    outputs: Mapping[str, Tensor],
    targets: Mapping[str, Tensor],
    counts: Mapping[str, int],
) -> dict[str, Tensor]:
    """Sum of the rows' losses over the task's count; tasks of a kind are computed together."""
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
