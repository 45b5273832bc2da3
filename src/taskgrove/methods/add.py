"""add: new tasks into a saved model whose trunk carries parts of each task's own.

Only what is the new task's own is trained: its slices of stacked parts and its head. Afterwards the
old tasks' outputs are computed on some rows by the folder as it was and by the new model; unless
they are equal bit for bit nothing is written. `full` also trains what the tasks share among the
parts (the skills of poly, a hypernetwork): then old predictions may change, and it is said.
"""

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from taskgrove import __version__
from taskgrove.errors import TaskgroveError, listed
from taskgrove.methods.method import Progress
from taskgrove.methods.workplace import claim
from taskgrove.sharing.folder import load
from taskgrove.sharing.model import MultiTaskModel
from taskgrove.sharing.route import route
from taskgrove.sharing.sharing import Sharing
from taskgrove.tasks.inputs import Inputs
from taskgrove.tasks.task_set import TaskSet
from taskgrove.training import checkpoint
from taskgrove.training.budget import Budget
from taskgrove.training.evaluate import predict, scores
from taskgrove.training.fit import fit
from taskgrove.training.options import Options
from taskgrove.training.processes import processes, wait

Mode = Literal["own", "full"]
PROOF = 256  # rows on which old outputs are compared


def add(
    folder: Path,
    task_set: TaskSet,
    out: Path,
    budget: Budget,
    options: Options,
    seed: int = 0,
    mode: Mode = "own",
    progress: Progress | None = None,
) -> dict[str, float]:
    """Writes the model of `folder` with the tasks of `task_set` added; returns their test scores.

    What a kill would lose lies in `out`.work until the end.
    """
    old = load(folder)
    check(folder, old, task_set, out)
    asked = {
        "from": checkpoint.read_json(folder / "taskgrove.json"),
        "seed": seed,
        "mode": mode,
        "budget": {budget.unit: budget.limit},
        "options": asdict(options),
        "data": task_set.fingerprint(),
    }
    work = out.with_name(out.name + ".work")
    claim(work, asked)
    whole, part = extended(load(folder), task_set, seed)
    sharing = whole.sharing
    assert sharing is not None
    sharing.requires_grad_(True)
    if mode == "own":
        only_stacked(sharing)
    fit(
        part, task_set, budget=budget.in_passes(options.batch_size), options=options, seed=seed,
        folder=work / "fit", pretrained=True,
        progress=None if progress is None else lambda done, losses: progress("add", done, losses),
    )  # fmt: skip
    found = scores(task_set, "test", predict(part, task_set, "test"))
    if mode == "own":
        prove(old, whole, task_set)
    if processes().is_main_process:
        facts = {"added": list(task_set.tasks), "mode": mode, "seed": seed}
        facts |= {"version": __version__, "test": checkpoint.finite(found)}
        whole.save(out, facts)
        shutil.rmtree(work)
    wait()
    return found


def check(folder: Path, old: MultiTaskModel, task_set: TaskSet, out: Path) -> None:
    """Refuses what cannot be added, before anything is trained."""
    if old.sharing is None:
        raise TaskgroveError(
            f"{folder} shares all weights among its tasks, so a new one would change the old ones:"
            " train them together, or make it by a method with parts, such as"
            " `taskgrove train lora`"
        )
    if twice := [name for name in task_set.tasks if name in old.tasks]:
        raise TaskgroveError(
            f'{folder} has a task "{twice[0]}" already (it has {listed(old.tasks)}): give the new'
            " one another name"
        )
    before = next(iter(old.inputs.values()))
    for table in task_set.tables:
        _alike(before, table.inputs)
    if out.exists() and out.resolve() != folder.resolve() and any(out.iterdir()):
        raise TaskgroveError(f"{out} exists and is not empty: give another --out")


def _alike(before: Inputs, now: Inputs) -> None:
    """Raises TaskgroveError unless the trunk can read the new rows."""
    if before.modalities != now.modalities:
        raise TaskgroveError(
            f"the model reads {listed(sorted(before.modalities))}, the new tasks offer"
            f" {listed(sorted(now.modalities))}: give them the same kinds of input"
        )
    for what in ("numbers", "categories", "image_size"):
        had, has = getattr(before, what), getattr(now, what)
        if had != has:
            raise TaskgroveError(
                f"the model's {what} are {had}, the new tasks' are {has}: give them the same"
            )


def extended(
    model: MultiTaskModel, task_set: TaskSet, seed: int
) -> tuple[MultiTaskModel, MultiTaskModel]:
    """The model with the new tasks, and the same for the new tasks alone: what is trained."""
    new = {name: task_set.table(name).inputs for name in task_set.tasks}
    tasks = [*model.tasks.values(), *task_set.tasks.values()]
    trunks: Any = list(model.trunks)
    sharing = model.sharing
    assert sharing is not None
    trunk_of = {task.name: 0 for task in tasks}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        whole = MultiTaskModel(tasks, trunks, trunk_of, model.inputs | new)
        for name in new:
            sharing.add(name)
    for name in model.tasks:
        whole.head(name).load_state_dict(model.head(name).state_dict())
    part = MultiTaskModel(tasks[len(model.tasks) :], trunks, dict.fromkeys(new, 0), new)
    part.heads = nn.ModuleList(whole.head(name) for name in new)
    part.slot = {name: whole.number[name] for name in new}
    whole.sharing = part.sharing = sharing
    whole.trunks.requires_grad_(False)
    return whole, part


def only_stacked(sharing: Sharing) -> None:
    """Fixes what tasks share; of stacked parameters an optimiser moves present slices alone."""
    stacked = set(sharing.stacked())
    for name, parameter in sharing.named_parameters():
        parameter.requires_grad_(name in stacked)


def prove(old: MultiTaskModel, new: MultiTaskModel, task_set: TaskSet) -> None:
    """Raises TaskgroveError unless the old tasks' outputs are the same, bit for bit."""
    rows = np.arange(min(PROOF, len(task_set.tables[0])))
    inputs = old.trunk(next(iter(old.tasks))).prepare(task_set.raw(0, rows))
    for name in old.tasks:
        here = route({name: torch.arange(len(rows))})
        with torch.no_grad():
            before, after = (model.to("cpu").eval()(inputs, here)[name] for model in (old, new))
        if not torch.equal(before, after):
            raise TaskgroveError(
                f'adding tasks changed what the model says of "{name}", which is a mistake of'
                " taskgrove: nothing was written; please report it"
            )
