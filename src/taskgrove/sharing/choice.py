"""What a way to share is: a frozen record of settings (`Choice`) that builds its `Parts`.

A choice is one file: the record, and one module that holds its parameters for all sites and tasks.
A parameter whose first axis is the task is *stacked*: a task owns one slice of it, is added by one
more row, and alone moves when it is present (see training/slots).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

from torch import Tensor, nn

from taskgrove.errors import TaskgroveError
from taskgrove.sharing.route import Route

When = Literal["before", "after", "instead", "around"]


@dataclass(frozen=True)
class Point:
    """A function at a module of the trunk; the route is that of the batch.

    after:    f(x, y, route) -> y     x the module's first input, y its (first) output
    before:   f(x, route) -> x        x its first input
    instead:  f(x, route) -> y        the module itself does not run
    around:   f(args, kwargs, route) -> args, kwargs, then out(y, route) -> y
    """

    when: When
    f: Callable[..., Any]
    out: Callable[..., Tensor] | None = None


class Parts(nn.Module):
    """The parameters of a choice at all its sites. A subclass gives `points`, and what it needs.

    `stacked` names parameters whose first axis is the task; `undecayed` those without weight decay
    (vectors never have it); `rates` multiply the learning rate of those whose names start so.
    """

    stacked: ClassVar[frozenset[str]] = frozenset()
    undecayed: ClassVar[frozenset[str]] = frozenset()
    rates: ClassVar[Mapping[str, float]] = {}

    def points(self) -> Mapping[str, Point]:
        """Site -> what happens there."""
        raise NotImplementedError

    def begin(self, route: Route) -> None:
        """Called once a batch, before the trunk runs: what is generated or mixed for its tasks."""

    def end(self) -> None:
        """Called after the trunk: drops what `begin` made."""

    def loss(self) -> Tensor | None:
        """What the routers of the batch add to its loss, already weighted; None: nothing."""
        return None

    def add(self, tasks: int) -> None:
        """Room for `tasks` more; the stacked parameters grow by as many rows."""
        raise NotImplementedError


@runtime_checkable
class Choice(Protocol):
    """Settings of a way to share, as JSON-ready fields of a frozen dataclass."""

    about: ClassVar[str]
    starts_at_base: ClassVar[bool]  # whether untrained parts leave the outputs as they are

    def sites(self, trunk: nn.Module) -> list[str]:
        """Names of the modules it fits, on which it acts where no pattern says otherwise."""
        ...

    def parts(self, trunk: nn.Module, sites: list[str], tasks: int) -> Parts:
        """Its parameters; the sites are modules of `trunk`, in order. Raises TaskgroveError where a
        setting does not fit a site."""
        ...


def linears(trunk: nn.Module, rank: int = 1) -> list[str]:
    """All linear layers whose sides are not below `rank`, by name."""
    found = [(name, sides(module)) for name, module in trunk.named_modules()]
    return [name for name, sizes in found if sizes is not None and min(sizes) >= rank]


def contractions(trunk: nn.Module) -> list[str]:
    """Linear layers with fewer outputs than inputs: the ends of feed-forward blocks."""
    found = [(name, sides(module)) for name, module in trunk.named_modules()]
    return [name for name, sizes in found if sizes is not None and sizes[0] < sizes[1]]


def sides(module: nn.Module) -> tuple[int, int] | None:
    """(out, in) of a linear layer, torch's or the Conv1D of transformers; None for others."""
    if isinstance(module, nn.Linear):
        return module.out_features, module.in_features
    weight = getattr(module, "weight", None)
    if type(module).__name__ == "Conv1D" and isinstance(weight, Tensor) and weight.ndim == 2:
        return weight.shape[1], weight.shape[0]
    return None


def sides_at(trunk: nn.Module, site: str) -> tuple[int, int]:
    """(out, in) of the linear layer of this name."""
    found = sides(trunk.get_submodule(site))
    if found is None:
        raise TaskgroveError(f'"{site}" is no linear layer')
    return found
