"""Settings: what a comparison does, a line each; results.json carries them whole."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from taskgrove.errors import TaskgroveError
from taskgrove.methods import DEFAULT, chosen
from taskgrove.methods.start import Named
from taskgrove.training.budget import Budget
from taskgrove.training.options import Options


@dataclass(frozen=True)
class Settings:
    """The methods, their equal budget, the seeds, and what all methods share."""

    methods: Sequence[str] = DEFAULT  # names of methods, and of groups such as "balancing"
    budget: Budget = field(default_factory=lambda: Budget(steps=600))
    seeds: Sequence[int] = (0, 1)
    options: Options = field(default_factory=Options)
    start_steps: int | None = None  # None: 300 for a trunk of our own, 0 for a pre-trained one
    backbone: Named = None  # None: the tasks file's, or by the kind of input
    threads: int | None = None  # of a process; None: torch's choice

    def __post_init__(self) -> None:
        chosen(self.methods)
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise TaskgroveError("seeds must be one or more different numbers, such as 0 1 2")

    @property
    def all_methods(self) -> list[str]:
        """The methods, each once, after `single`, which all are measured against."""
        return chosen(["single", *self.methods])

    def to_json(self) -> dict[str, Any]:
        """Plain values; the budget as its one limit."""
        budget = {self.budget.unit: self.budget.limit}
        return {
            **asdict(self),
            "methods": chosen(self.methods),
            "seeds": list(self.seeds),
            "budget": budget,
            "backbone": self.backbone.__name__ if callable(self.backbone) else self.backbone,
        }
