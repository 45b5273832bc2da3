"""What a weighting may see, what it answers, and what a balancing method declares of itself.

A *source* gives each present task's loss L_t and, where asked for, its gradient g_t of the shared
parameters (or features). Their *statistic* is all that a weighting may see; a *weighting* is a
function of it alone, and answers w, so that the shared gradient is d = sum_t w_t g_t. The few
methods that choose element by element are *aggregators*: they see the rows g_t and answer d.
Symbols: K present tasks; share, losses, w [task]; gramian M = G G^T [task task]; rows G
[task shared]. Convention: with `share` uniform and tasks that agree, w sums to 1 (a mean).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from jaxtyping import Float, Float64, Int
from torch import Tensor

Invariant = Literal[
    "permutation",  # tasks in another order: the same weights in that order
    "scale",  # all losses times c > 0: the same weights, bit for bit where c is a power of two
    "row scale",  # one loss times c > 0: the same direction d
    "non-conflict",  # d . g_t >= 0 for each task
    "stationarity",  # d = 0 where no direction improves all tasks
    "one task",  # K = 1: w = 1
    "absent task",  # a task that is not there leaves no trace: as if it had never existed
]
Needs = Literal["nothing", "losses", "gramian", "rows"]


@dataclass(frozen=True)
class Statistic:
    """What a weighting may see of a step, on the CPU, over the present tasks.

    `tasks` are their numbers, for weightings with a state a task; `share` (sum 1) says how much
    each task counts, the method's preference vector. Losses and M are those of the whole batch of
    all processes; M is there for methods that need it.
    """

    tasks: Int[Tensor, " task"]
    share: Float64[Tensor, " task"]
    step: int
    losses: Float64[Tensor, " task"]
    gramian: Float64[Tensor, "task task"] | None = None


@runtime_checkable
class Weighting(Protocol):
    """(statistic) -> w [task] without a graph, and an objective of its own parameters, if any."""

    def __call__(self, statistic: Statistic, /) -> tuple[Float64[Tensor, " task"], Tensor | None]:
        """w; the scalar objective is minimised over the weighting's parameters."""
        ...


@runtime_checkable
class Aggregator(Protocol):
    """(statistic, rows) -> d, for methods that choose element by element."""

    def __call__(
        self, statistic: Statistic, rows: Float[Tensor, "task shared"], /
    ) -> Float[Tensor, " shared"]:
        """The shared gradient, in the rows' type and on their device."""
        ...


@dataclass(frozen=True)
class Setup:
    """From what a weighting is made: all K tasks, absent ones too."""

    tasks: int
    seed: int = 0
    numbers: Sequence[bool] | None = None  # which tasks predict a number
    shared: int = 0  # elements of a row


@dataclass(frozen=True)
class Choice:
    """A row of the table of balancing methods.

    `again`: its weighting has `observe(tasks, losses)`, called with the same batch's losses after
    the optimiser's step (one more forward pass). `tracks`: its state is as long as a row.
    """

    about: str
    make: Callable[[Setup], Weighting | Aggregator]
    needs: Needs
    invariants: frozenset[Invariant]
    again: bool = False
    tracks: bool = False


def on_gramian(
    function: Callable[[Float64[Tensor, "task task"], Float64[Tensor, " task"]], Tensor],
) -> Callable[[Setup], Weighting]:
    """`make` of a weighting that is a pure function (M, share) -> w."""

    def weigh(statistic: Statistic) -> tuple[Tensor, None]:
        assert statistic.gramian is not None
        return function(statistic.gramian, statistic.share), None

    return lambda _setup: weigh
