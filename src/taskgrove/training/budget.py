"""Budgets: when a training run ends, in one of four units.

A *pass* is one forward and one backward of a trunk over one example; the forward counts 1/3 and
each backward 2/3 (Kaplan et al. 2020, arXiv 2001.08361, section 2.1: a backward costs twice a
forward).
"""

from dataclasses import dataclass, fields

from taskgrove.errors import TaskgroveError

FORWARD, BACKWARD = 1 / 3, 2 / 3


@dataclass(frozen=True)
class Budget:
    """Exactly one limit; runs are compared at equal limits."""

    steps: float | None = None
    examples: float | None = None
    seconds: float | None = None
    passes: float | None = None

    def __post_init__(self) -> None:
        given = {f.name: getattr(self, f.name) for f in fields(self)}
        given = {unit: limit for unit, limit in given.items() if limit is not None}
        if len(given) != 1:
            got = " and ".join(given) or "none"
            raise TaskgroveError(
                f"a budget is one of steps, examples, seconds or passes, got {got}: give one"
            )
        unit, limit = next(iter(given.items()))
        if not 0 < limit < float("inf"):
            raise TaskgroveError(
                f"a budget of {limit} {unit} trains nothing: give a positive number"
            )

    @property
    def unit(self) -> str:
        """The unit that is limited."""
        return next(f.name for f in fields(self) if getattr(self, f.name) is not None)

    @property
    def limit(self) -> float:
        """The limit, in that unit."""
        return getattr(self, self.unit)

    def passes_of(self, batch_size: int) -> float | None:
        """About how many passes it buys; None for seconds."""
        each = {"steps": batch_size, "examples": 1, "passes": 1}
        return self.limit * each[self.unit] if self.unit in each else None

    def part(self, share: float) -> "Budget":
        """A share of this budget, in the same unit; never less than one step."""
        limit = self.limit * share
        return Budget(**{self.unit: max(1.0, limit) if self.unit != "seconds" else limit})

    def in_passes(self, batch_size: int) -> "Budget":
        """Steps as passes of whole batches, so that methods with dearer steps take fewer."""
        return Budget(passes=self.limit * batch_size) if self.unit == "steps" else self


@dataclass
class Spent:
    """What a run has used so far, in every unit."""

    steps: int = 0
    examples: int = 0
    seconds: float = 0.0
    passes: float = 0.0

    def fraction(self, budget: Budget) -> float:
        """Share of the budget that is used, at most 1; a millionth is forgiven."""
        used = getattr(self, budget.unit) / budget.limit
        return 1.0 if used > 1 - 1e-6 else used
