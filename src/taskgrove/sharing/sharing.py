"""Sharing: task-specific parts attached to a trunk, by ordered rules over its modules' names.

    rules = [("*.attention.*", LoRA(rank=4)), ("*", LoRA(rank=8))]      first match wins
    sharing = Sharing(trunk, rules, ["law", "code"])
    with sharing.using(route):
        features = trunk(inputs)              rows in the order of the route's entries

The trunk keeps its modules, names and weights: parts act through hooks, and `detach` removes them.
A batch may hold examples of any of the tasks at the cost of one.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from taskgrove.errors import TaskgroveError, did_you_mean, listed
from taskgrove.sharing.choice import Choice, Parts
from taskgrove.sharing.hooks import Here, attach
from taskgrove.sharing.route import Route

Rule = tuple[str | tuple[str, ...], Choice]  # a pattern, or several


class Sharing(nn.Module):
    """The parts of all rules; a module whose parameters are the tasks' own and what they share."""

    def __init__(self, trunk: nn.Module, rules: Sequence[Rule], tasks: Sequence[str]) -> None:
        super().__init__()
        twice = [task for n, task in enumerate(tasks) if task in tasks[:n]]
        if twice:
            raise TaskgroveError(f'the task "{twice[0]}" is named twice')
        self.rules, self.tasks = list(rules), list(tasks)
        chosen = sites_of(trunk, rules)
        self.parts = nn.ModuleList(
            choice.parts(trunk, sites, len(tasks))
            for (_, choice), sites in zip(rules, chosen, strict=True)
        )
        self._here, self._undo = Here(), []
        for parts in self.parts:
            for site, point in parts.points().items():  # pyright: ignore[reportCallIssue]
                self._undo.append(attach(trunk, site, point, self._here))
        self._sites = {site for parts in self._all() for site in parts.points()}

    def _all(self) -> list[Parts]:
        return list(self.parts)  # pyright: ignore[reportReturnType]

    @contextmanager
    def using(self, route: Route) -> Iterator[None]:
        """Within the block the trunk runs with each entry's own parts."""
        if self._here.route is not None:
            raise TaskgroveError("a trunk runs with one route at a time: leave the other block")
        beyond = [n for n in route.groups if not 0 <= n < len(self.tasks)]
        if beyond:
            raise TaskgroveError(
                f"there is no task {beyond[0]}: the {len(self.tasks)} tasks are numbered from 0"
            )
        self._here.route = route
        self._here.met.clear()
        try:
            for parts in self._all():
                parts.begin(route)
            yield
            if missed := sorted(self._sites - self._here.met):
                raise TaskgroveError(
                    f'the trunk never called "{missed[0]}" as a module, so nothing can be attached'
                    " there: leave it out of the rules"
                )
        finally:
            self._here.route = None
            for parts in self._all():
                parts.end()

    def loss(self) -> Tensor | None:
        """The routers' losses of the last batch, summed; None where there are none."""
        found = [loss for parts in self._all() if (loss := parts.loss()) is not None]
        return torch.stack(found).sum() if found else None

    def add(self, task: str) -> None:
        """Room for one more task, its number the next one; the other tasks' slices stay as they
        are. Cost: one row a stacked parameter."""
        if task in self.tasks:
            raise TaskgroveError(f'there is a task "{task}" already: name the new one otherwise')
        for parts in self._all():
            parts.add(1)
        self.tasks.append(task)

    def stacked(self) -> dict[str, nn.Parameter]:
        """Parameters whose first axis is the task, by name."""
        found = {}
        for n, parts in enumerate(self._all()):
            for name, parameter in parts.named_parameters():
                if name.split(".")[0] in parts.stacked:
                    found[f"parts.{n}.{name}"] = parameter
        return found

    def rate_of(self, name: str) -> float:
        """What the learning rate of a parameter is multiplied with."""
        _, number, inner = name.split(".", 2)
        rates = self._all()[int(number)].rates
        return next((rate for start, rate in rates.items() if inner.startswith(start)), 1.0)

    def decays(self, name: str) -> bool:
        """Whether weight decay acts on a parameter: on matrices, unless its parts say otherwise."""
        _, number, inner = name.split(".", 2)
        parts = self._all()[int(number)]
        axes = self.get_parameter(name).ndim - (inner.split(".")[0] in parts.stacked)
        return axes > 1 and inner.split(".")[0] not in parts.undecayed

    def detach(self) -> None:
        """Takes the parts off: the trunk is as it was before."""
        while self._undo:
            self._undo.pop()()


def sites_of(trunk: nn.Module, rules: Sequence[Rule]) -> list[list[str]]:
    """The sites of each rule. Each module belongs to the first rule whose pattern it matches.

    Raises TaskgroveError for a pattern that matches nothing that its choice can act on.
    """
    if not rules:
        raise TaskgroveError('no rule says what to attach: give one, such as ("*", LoRA())')
    taken: set[str] = set()
    chosen = []
    for pattern, choice in rules:
        fit = choice.sites(trunk)
        several = (pattern,) if isinstance(pattern, str) else pattern
        mine = [name for name in fit if any(fnmatchcase(name, one) for one in several)]
        left = [name for name in mine if name not in taken]
        if not left:
            why = "it fits " + listed(fit, 6) if fit else "it fits no module of this trunk"
            why = "all were taken by rules before it" if mine else why
            hint = "" if mine else did_you_mean(several[0], fit)
            raise TaskgroveError(
                f"the pattern {listed(several, 3)} leaves no module for {choice}: {why}.{hint}"
            )
        chosen.append(left)
        taken.update(left)
    return chosen
