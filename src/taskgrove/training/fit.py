"""fit: the one training loop.

Each step: the mixture draws rows, the batch is gathered, the model gives one loss a present task,
the balancing step makes one gradient of them, AdamW moves the weights. At even shares of the
budget the validation part is looked at, the best weights are kept, and a checkpoint is written. A
run that was killed goes on from its checkpoint to the same weights, bit for bit, on the same
machine (a budget in seconds excepted).

Cost a step: one forward and backward of the trunk over the batch (more with per-task gradients, see
balancing/flows); nothing grows with the number of tasks but their heads.
"""

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from taskgrove.errors import TaskgroveError
from taskgrove.sharing.model import MultiTaskModel
from taskgrove.tasks.task_set import TaskSet
from taskgrove.training import checkpoint
from taskgrove.training.batch import feed
from taskgrove.training.bound import Named, bound
from taskgrove.training.budget import Budget, Spent
from taskgrove.training.evaluate import goodness, predict, scores
from taskgrove.training.learning_rate import warmup_cosine
from taskgrove.training.mixtures import drawn, rates_of, training_mixture
from taskgrove.training.optimiser import adamw, groups_of, set_rate
from taskgrove.training.options import Options
from taskgrove.training.processes import agreed, processes, this_device, wait
from taskgrove.training.run import Record, Run, finish, resumed, save
from taskgrove.training.scalars import Scalars
from taskgrove.training.step import DivergedError, Stepper, passes, take_step

DIVERGED = 1e6  # times a task's first loss
SAVE_EVERY = 120.0  # seconds between checkpoints where looks are far apart
Progress = Callable[[float, Mapping[str, float]], None]  # (share of the budget, losses by task)


def fit(
    model: MultiTaskModel,
    task_set: TaskSet,
    *,
    budget: Budget,
    options: Options,
    seed: int,
    folder: Path,
    balancer: Named = "mean",
    rates: Mapping[str, float] | None = None,
    pretrained: bool = False,
    progress: Progress | None = None,
) -> Record:
    """Trains `model` on its own tasks; afterwards it holds the weights best on validation.

    `rates` over the tasks are the tasks file's where None; those of the model's tasks count.

    `folder` keeps the run's checkpoint, `best.safetensors`, TensorBoard scalars and, at the end,
    `fit.json`; a finished run is read back at once, an interrupted one goes on.
    Raises TaskgroveError when the loss leaves the finite numbers, naming task and step.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model.to(this_device()).train()
    done, best = folder / "fit.json", folder / "best.safetensors"
    if not done.exists():
        stepper = _stepper(model, task_set, options, balancer, seed, pretrained)
        shares = rates_of(task_set) if rates is None else rates
        mixture = training_mixture(task_set, stepper.feed, seed, shares)
        run = resumed(Run(stepper, mixture, Record(), budget, folder, seed))
        try:
            with torch.random.fork_rng(devices=[]):
                _train(run, task_set, progress)
        except DivergedError as error:
            raise TaskgroveError(f"{error} {folder}") from None
        finish(run)
    wait()
    weights, _ = checkpoint.read(best)
    model.load_state_dict(weights)
    model.eval()
    return Record.of(checkpoint.read_json(done))


def _stepper(
    model: MultiTaskModel,
    task_set: TaskSet,
    options: Options,
    method: Named,
    seed: int,
    pretrained: bool,
) -> Stepper:
    names, device = list(model.tasks), this_device()
    balancer = bound(method, model, task_set, options, seed)
    for module in balancer.modules:
        module.to(device)
    optimiser = adamw(model, balancer, options, pretrained)
    scaler = torch.amp.GradScaler(  # pyright: ignore[reportPrivateImportUsage]
        device.type, enabled=options.precision == "fp16"
    )
    source, places = feed(task_set, names), groups_of(optimiser)
    return Stepper(model, source, balancer, optimiser, places, scaler, options)


def _train(run: Run, task_set: TaskSet, progress: Progress | None) -> None:
    spent, options = run.record.spent, run.stepper.options
    scalars = Scalars(run.folder, run.record.history) if processes().is_main_process else None
    if spent.steps == 0:
        save(run)
    saved = time.monotonic()
    while (used := spent.fraction(run.budget)) < 1:
        started = time.monotonic()
        losses = _step(run, used)
        spent.seconds += agreed(time.monotonic() - started)
        now = spent.fraction(run.budget)
        if progress is not None:
            progress(now, losses)
        if math.floor(now * options.evaluations) > math.floor(used * options.evaluations):
            look = _look(run, task_set)
            if scalars is not None:
                scalars.add(look)
            save(run)
            saved = time.monotonic()
            if options.patience is not None and run.record.looks_without_gain >= options.patience:
                break
        elif time.monotonic() - saved > SAVE_EVERY:
            save(run)
            saved = time.monotonic()
    if scalars is not None:
        scalars.close()


def _step(run: Run, used: float) -> Mapping[str, float]:
    """One step; its rate is that of the middle of its part of the budget, so no end is zero."""
    record, spent, options = run.record, run.record.spent, run.stepper.options
    tables, rows = drawn(run.mixture, spent.steps, _rows_left(run))
    cost = passes(run.stepper, tables, rows)
    after = Spent(spent.steps + 1, spent.examples + len(rows), spent.seconds, spent.passes + cost)
    middle = (used + after.fraction(run.budget)) / 2
    set_rate(run.stepper.optimiser, warmup_cosine(middle, options.warmup))
    torch.manual_seed((run.seed * 1_000_003 + spent.steps) * 4096 + processes().process_index)
    losses, balanced = take_step(run.stepper, tables, rows, spent.steps)
    record.balance.add(balanced, list(losses))
    for task, loss in losses.items():
        if loss > DIVERGED * max(record.first.setdefault(task, loss), 1.0):
            raise DivergedError(
                task, spent.steps, f"its loss grew from {record.first[task]:.3g} to {loss:.3g}"
            )
        total = record.sums.setdefault(task, [0.0, 0])
        total[0] += loss
        total[1] += 1
    run.mixture.observe(losses)
    spent.steps, spent.examples, spent.passes = after.steps, after.examples, after.passes
    return losses


def _rows_left(run: Run) -> int:
    """The batch size, or less where the last step of a budget in examples or passes is smaller."""
    spent, budget, size = run.record.spent, run.budget, run.stepper.options.batch_size
    if budget.unit == "examples" or (
        budget.unit == "passes" and not run.stepper.balancer.sees_gradients
    ):
        left = budget.limit - getattr(spent, budget.unit)
        return max(min(size, round(left)), processes().num_processes)
    return size


def _look(run: Run, task_set: TaskSet) -> dict[str, Any]:
    """Scores the validation part, keeps the weights if they are the best so far."""
    record, model, options = run.record, run.stepper.model, run.stepper.options
    most = options.look_rows(run.budget.passes_of(options.batch_size), len(model.tasks))
    found = scores(
        task_set, "validation", predict(model, task_set, "validation", most_rows=most), most
    )
    good = goodness(task_set, found)
    record.looks_without_gain = 0 if good > record.best else record.looks_without_gain + 1
    if good > record.best:
        record.best = good
        if processes().is_main_process:
            checkpoint.write(
                run.folder / "best.safetensors", model.state_dict(), {"goodness": good}
            )
    losses = {task: total / steps for task, (total, steps) in record.sums.items()}
    record.sums.clear()
    spent = record.spent
    look = {"steps": spent.steps, "examples": spent.examples, "passes": spent.passes,
            "seconds": spent.seconds, "loss": losses, "validation": found}  # fmt: skip
    if balance := record.balance.summary(list(model.tasks)):
        look["balance"] = balance
    record.balance.reset()
    record.history.append(look)
    return look
