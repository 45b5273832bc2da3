"""The start: the model from which every method of a comparison sets out.

A pre-trained encoder is its own start. A small trunk of our own is first trained jointly for a
while, so that fine-tunes share a basin and can be merged; that model is a checkpoint like any
other.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from taskgrove.backbones import (
    BACKBONES,
    Backbone,
    Fused,
    TableSpec,
    backbone,
)
from taskgrove.backbones.table_spec import fit as fit_table
from taskgrove.errors import TaskgroveError, listed
from taskgrove.methods.method import Progress
from taskgrove.sharing.model import MultiTaskModel
from taskgrove.tasks.task_set import TRAIN, TaskSet
from taskgrove.training.batch import joined
from taskgrove.training.budget import Budget
from taskgrove.training.fit import fit
from taskgrove.training.options import Options
from taskgrove.training.processes import processes, wait
from taskgrove.training.run import Record

Make = Callable[[], Backbone]
Named = (
    str | Make | None
)  # a backbone's name, a function that makes one, or the tasks file's choice
DEFAULTS = {"text": "bag", "image": "cnn", "table": "mlp"}


def is_pretrained(task_set: TaskSet, name: Named = None) -> bool:
    """Whether the trunk of `new_trunk` comes with weights; a module of one's own counts as new."""
    return not callable(name) and any(part not in BACKBONES for part in _names(task_set, name))


def _names(task_set: TaskSet, name: str | None) -> list[str]:
    named = name or task_set.backbone_name
    offered = task_set.tables[0].inputs.modalities
    return (
        [DEFAULTS[kind] for kind in sorted(offered)]
        if named is None
        else [part.strip() for part in named.split("+")]
    )


def new_trunk(task_set: TaskSet, seed: int, name: Named = None) -> tuple[Backbone, bool]:
    """A backbone that reads what the tasks offer, and whether it comes pre-trained.

    Several kinds of input are fused from a backbone each, such as "minilm+mlp"; a function makes a
    module of one's own (see backbones.wrap). Random weights depend on `seed` alone. Raises
    TaskgroveError when a kind of input is read by none, or by two.
    """
    offered = task_set.tables[0].inputs.modalities
    names = [name.__name__] if callable(name) else _names(task_set, name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        members = [name()] if callable(name) else [_member(task_set, part) for part in names]
        asked = frozenset().union(*(member.reads for member in members))
        members += [_member(task_set, DEFAULTS[kind]) for kind in sorted(offered - asked)]
        trunk = members[0] if len(members) == 1 else Fused(members)
    if trunk.reads != offered or sum(len(m.reads) for m in members) != len(offered):
        raise TaskgroveError(
            f'the backbone "{"+".join(names)}" reads {listed(sorted(asked))}, but the tasks'
            f" offer {listed(sorted(offered))}: name one backbone for each kind of input"
        )
    return trunk, is_pretrained(task_set, name)


def _member(task_set: TaskSet, name: str) -> Backbone:
    spec = _table_spec(task_set) if name == "mlp" else None
    return backbone(name, spec, task_set.max_length)


def _table_spec(task_set: TaskSet) -> TableSpec:
    """Means, deviations and values of the table columns over the training rows of all tables."""
    inputs = task_set.tables[0].inputs
    if "table" not in inputs.modalities:
        raise TaskgroveError(
            'the backbone "mlp" reads a table, but the tasks name no "numbers" and no "categories"'
        )
    rows = [np.flatnonzero(table.split == TRAIN) for table in task_set.tables]
    raw = joined([task_set.raw(number, mine) for number, mine in enumerate(rows)])
    return fit_table(raw["numbers"], raw["categories"], inputs.numbers, inputs.categories)


def new_model(
    task_set: TaskSet, seed: int, tasks: Sequence[str] | None = None, name: Named = None
) -> tuple[MultiTaskModel, bool]:
    """A new trunk with a head for each task (all by default), and whether it is pre-trained."""
    trunk, pretrained = new_trunk(task_set, seed, name)
    names = list(task_set.tasks if tasks is None else tasks)
    inputs = {task: task_set.table(task).inputs for task in names}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed + 1)
        heads = [task_set.tasks[task] for task in names]
        return MultiTaskModel(heads, [trunk], dict.fromkeys(names, 0), inputs), pretrained


def start(
    task_set: TaskSet,
    folder: Path,
    *,
    seed: int,
    steps: int | None,
    options: Options,
    name: Named = None,
    progress: Progress | None = None,
) -> tuple[Path, Record, bool]:
    """Makes or finds the start in `folder`: its model folder, its cost, pre-trained or not."""
    model, pretrained = new_model(task_set, seed, name=name)
    steps = (0 if pretrained else 300) if steps is None else steps
    if steps < 0:
        raise TaskgroveError(f"the start's steps are {steps}: give 0 or more")
    record = Record()

    def tell(done: float, losses: Mapping[str, float]) -> None:
        if progress is not None:
            progress("start", done, losses)

    if steps:
        record = fit(
            model,
            task_set,
            budget=Budget(steps=steps),
            options=options,
            seed=seed,
            folder=folder / "fit",
            pretrained=pretrained,
            progress=tell,
        )
    if processes().is_main_process and not (folder / "model").exists():
        model.save(folder / "model", {"method": "start", "seed": seed, "steps": steps})
    wait()
    return folder / "model", record, pretrained
