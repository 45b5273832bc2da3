"""Run: the moving parts of a training run, and the checkpoint that holds them all.

`last.safetensors` holds weights, optimiser, balancer, mixture, loss scaler and the record; with
random numbers counted by the step there is nothing else to keep. `fit.json` marks a run as done.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from taskgrove.mixing import Mixture
from taskgrove.training import checkpoint
from taskgrove.training.budget import Budget, Spent
from taskgrove.training.diagnostics import Diagnostics
from taskgrove.training.optimiser import optimiser_tensors, restore_optimiser
from taskgrove.training.processes import processes
from taskgrove.training.step import Stepper


@dataclass
class Record:
    """What a run knows of itself; the JSON side of its checkpoint."""

    spent: Spent = field(default_factory=Spent)
    best: float = -math.inf
    looks_without_gain: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    sums: dict[str, list[float]] = field(default_factory=dict)  # loss sum and steps since a look
    first: dict[str, float] = field(default_factory=dict)
    balance: Diagnostics = field(default_factory=Diagnostics)

    def facts(self) -> dict[str, Any]:
        """As JSON."""
        return {**vars(self), "spent": vars(self.spent), "balance": vars(self.balance)}

    @staticmethod
    def of(facts: Mapping[str, Any]) -> "Record":
        """From JSON."""
        inner = {"spent": Spent(**facts["spent"]), "balance": Diagnostics(**facts["balance"])}
        return Record(**{**facts, **inner})


@dataclass(frozen=True)
class Run:
    """The moving parts of one run."""

    stepper: Stepper
    mixture: Mixture
    record: Record
    budget: Budget
    folder: Path
    seed: int


def save(run: Run) -> None:
    """Writes the checkpoint, from the first process."""
    if not processes().is_main_process:
        return
    stepper = run.stepper
    tensors = {f"model/{k}": v for k, v in stepper.model.state_dict().items()}
    tensors |= {f"optimiser/{k}": v for k, v in optimiser_tensors(stepper.optimiser).items()}
    tensors |= {f"balancer/{k}": v for k, v in stepper.balancer.state().items()}
    mixture = run.mixture.state()
    tensors |= {f"mixture/{k}": torch.from_numpy(v.copy()) for k, v in mixture.items()}
    facts = {"record": run.record.facts(), "scaler": stepper.scaler.state_dict()}
    checkpoint.write(run.folder / "last.safetensors", tensors, facts)


def resumed(run: Run) -> Run:
    """The run as its checkpoint left it; itself where there is none."""
    path = run.folder / "last.safetensors"
    if not path.exists():
        return run
    tensors, facts = checkpoint.read(path)

    def part(name: str) -> dict[str, torch.Tensor]:
        return {k.split("/", 1)[1]: v for k, v in tensors.items() if k.startswith(f"{name}/")}

    stepper = run.stepper
    stepper.model.load_state_dict(part("model"))
    restore_optimiser(stepper.optimiser, part("optimiser"))
    stepper.balancer.load(part("balancer"))
    run.mixture.load({k: v.numpy() for k, v in part("mixture").items()})
    stepper.scaler.load_state_dict(facts["scaler"])
    return Run(stepper, run.mixture, Record.of(facts["record"]), run.budget, run.folder, run.seed)


def finish(run: Run) -> None:
    """Marks the run as done, then drops the checkpoint that nobody needs any more."""
    if processes().is_main_process:
        checkpoint.write_json(run.folder / "fit.json", run.record.facts())
        (run.folder / "last.safetensors").unlink(missing_ok=True)
