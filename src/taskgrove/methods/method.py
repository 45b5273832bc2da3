"""Method: a composition of choices that turns (backbone, tasks, budget, seed) into a model."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from taskgrove.backbones import Backbone
from taskgrove.sharing.folder import load
from taskgrove.sharing.model import MultiTaskModel
from taskgrove.sharing.sharing import Rule
from taskgrove.tasks.task_set import TaskSet
from taskgrove.training.bound import Named
from taskgrove.training.budget import Budget
from taskgrove.training.fit import fit
from taskgrove.training.mixtures import rates_of
from taskgrove.training.options import Options
from taskgrove.training.run import Record

Progress = Callable[[str, float, Mapping[str, float]], None]  # (what, share done, losses by task)


@dataclass(frozen=True)
class Job:
    """What every method of a comparison is given; equal for all of them.

    `start` is a model folder: the trunk and heads from which each method sets out. `folder` keeps
    what a killed run goes on from, and fine-tunes that several methods need.
    """

    task_set: TaskSet
    start: Path
    budget: Budget
    options: Options
    seed: int
    folder: Path
    pretrained: bool = False
    progress: Progress | None = None
    make: Callable[[], Backbone] | None = None  # of a trunk whose code is the user's own
    rules: Sequence[Rule] = ()  # what parts go where, instead of a method's own at all its sites

    @cached_property
    def rates(self) -> dict[str, float]:
        """Each task's share of the budget."""
        return rates_of(self.task_set)

    def model(self, tasks: Sequence[str] | None = None) -> MultiTaskModel:
        """A fresh copy of the start with the heads of `tasks`, one trunk."""
        start = load(self.start, self.make)
        names = list(self.task_set.tasks if tasks is None else tasks)
        inputs = {name: start.inputs[name] for name in names}
        kept = [self.task_set.tasks[name] for name in names]
        model = MultiTaskModel(kept, [start.trunk(names[0])], dict.fromkeys(names, 0), inputs)
        for name in names:
            model.head(name).load_state_dict(start.head(name).state_dict())
        return model

    def fit(
        self, name: str, model: MultiTaskModel, share: float = 1.0, balancer: Named = "mean"
    ) -> Record:
        """Trains `model` in the job's sub-folder `name` on a share of the budget."""
        tell = self.progress

        def progress(done: float, losses: Mapping[str, float]) -> None:
            if tell is not None:
                tell(name, done, losses)

        return fit(
            model,
            self.task_set,
            budget=self.budget.part(share),
            options=self.options,
            seed=self.seed,
            folder=self.folder / name,
            balancer=balancer,
            rates=self.rates,
            pretrained=self.pretrained,
            progress=progress,
        )


@dataclass(frozen=True)
class Outcome:
    """A trained model and what it cost; `curves` hold (task, history) of each fit."""

    model: MultiTaskModel
    passes: float
    seconds: float
    trainable_parameters: int
    curves: list[dict[str, Any]]
    notes: list[str] = field(default_factory=list)
    scales: dict[str, float] = field(default_factory=dict)
    coefficients: dict[str, Any] | None = None
    balance: list[dict[str, Any]] = field(default_factory=list)  # of each look (see diagnostics)


@dataclass(frozen=True)
class Method:
    """A row of the table of methods: what it does in a sentence, and how."""

    about: str
    run: Callable[[Job], Outcome]
    balancer: Named | None = None  # what its one trunk is trained with, if any
    rules: Sequence[Rule] = ()  # the parts that it attaches to its one trunk, if any


def curves(record: Record, tasks: Sequence[str]) -> list[dict[str, Any]]:
    """The learning curve of each task: passes, training loss and validation score at each look."""
    return [
        {
            "task": task,
            "points": [
                {
                    "passes": look["passes"],
                    "loss": look["loss"].get(task),
                    "validation": look["validation"][task],
                }
                for look in record.history
            ],
        }
        for task in tasks
    ]


def balance(record: Record) -> list[dict[str, Any]]:
    """How gradients met and what weights they got, at each look that has something to tell."""
    return [
        {"passes": look["passes"], **look["balance"]}
        for look in record.history
        if "balance" in look
    ]


def stored(model: MultiTaskModel) -> int:
    """Parameters of a model, shared ones once."""
    return sum(parameter.numel() for parameter in model.parameters())


def own(model: MultiTaskModel) -> float:
    """Parameters that serve one task alone, mean over tasks: heads, a trunk of its own, its slices
    of stacked parts."""
    served = list(model.trunk_of.values())
    alone = [trunk for n, trunk in enumerate(model.trunks) if served.count(n) == 1]
    mine = sum(p.numel() for module in (model.heads, *alone) for p in module.parameters())
    if model.sharing is not None:
        slices = model.sharing.stacked().values()
        mine += sum(p.numel() for p in slices if len(p) == len(model.tasks))
    return mine / len(model.tasks)


def trainable(model: MultiTaskModel) -> int:
    """Those that training moves."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
