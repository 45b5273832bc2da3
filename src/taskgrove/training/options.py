"""The settings of a training run, a line each; results.json carries the same names."""

from dataclasses import dataclass
from typing import Literal, get_args

from taskgrove.errors import TaskgroveError, listed

Precision = Literal["auto", "fp32", "bf16", "fp16"]
Level = Literal["parameters", "features"]


@dataclass(frozen=True)
class Options:
    """Defaults suit a trunk of our own; `rates` fits the learning rates to a pre-trained one."""

    batch_size: int = 64
    learning_rate: float | None = None  # of the trunk; None: 2e-3, or 1e-4 for a pre-trained one
    head_learning_rate: float | None = None  # None: the trunk's, at least 1e-3
    sharing_learning_rate: float | None = None  # of adapters and the like; None: 1e-3
    weight_decay: float = 0.01
    warmup: float = 0.05  # share of the budget with a rising rate, then a cosine to zero
    clip: float = 1.0  # largest gradient norm
    accumulate: int = 1  # parts that a batch is computed in
    level: Level = "parameters"  # where balancing methods read task gradients; or "features"
    every: int = 1  # steps between two looks of balancing methods at task gradients
    watch: int = 0  # steps between two measurements of cosines where nothing needs them; 0: never
    precision: Precision = "auto"  # bf16 on an accelerator that has it, else fp32
    evaluations: int = 8  # validation looks, evenly over the budget
    patience: int | None = None  # looks without a gain before an early stop
    validation_rows: int | None = None  # most rows a task in one look; None: see `look_rows`

    def __post_init__(self) -> None:
        if self.precision not in get_args(Precision):
            raise TaskgroveError(
                f'there is no precision "{self.precision}"; there are {listed(get_args(Precision))}'
            )
        if self.level not in get_args(Level):
            raise TaskgroveError(
                f'there is no level "{self.level}"; there are {listed(get_args(Level))}'
            )
        if self.level == "features" and self.accumulate > 1:
            raise TaskgroveError('level "features" needs whole batches: set accumulate to 1')
        if self.watch < 0:
            raise TaskgroveError(f"watch is {self.watch}: it must be 0 (never) or more")
        if self.watch and self.accumulate > 1:
            raise TaskgroveError("watch needs whole batches: set accumulate to 1, or watch to 0")
        for name in (
            "batch_size",
            "accumulate",
            "every",
            "evaluations",
            "validation_rows",
            "patience",
        ):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise TaskgroveError(f"{name} is {value}: it must be 1 or more")
        for name in ("learning_rate", "head_learning_rate", "sharing_learning_rate", "clip"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise TaskgroveError(f"{name} is {value}: it must be a positive number")
        if not 0 <= self.warmup < 1:
            raise TaskgroveError(f"warmup is {self.warmup}: it is a share of the budget, 0 to 1")
        if self.batch_size % self.accumulate:
            raise TaskgroveError(
                f"a batch of {self.batch_size} does not fall into {self.accumulate} equal parts:"
                " make batch_size a multiple of accumulate"
            )

    def look_rows(self, passes: float | None, tasks: int) -> int:
        """Most rows a task in one look at the validation part.

        Unless `validation_rows` says it: as many as keep all looks below a fifth of the training's
        passes (a look's row is a third of a pass), between 32 and 2,000; `passes` None: unknown.
        """
        if self.validation_rows is not None:
            return self.validation_rows
        fifth = 2000 if passes is None else 0.2 * passes * 3 / self.evaluations / tasks
        return int(min(max(fifth, 32), 2000))

    @property
    def sharing_rate(self) -> float:
        """Highest learning rate of the parts attached to a trunk."""
        return self.sharing_learning_rate or 1e-3

    def rates(self, pretrained: bool) -> tuple[float, float]:
        """Highest learning rates of trunk and heads."""
        trunk = self.learning_rate or (1e-4 if pretrained else 2e-3)
        return trunk, self.head_learning_rate or max(trunk, 1e-3)
