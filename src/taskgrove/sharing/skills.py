"""Skills: feed-forward blocks that a task uses or not, as people decided.

"One Model, Multiple Modalities: A Sparsely Activated Approach for Text, Sound, Image, Video and
Code", Dai et al. 2022, arXiv 2205.06126.

    y = (1 / |A_t|) sum over the skills s in A_t: W2_s act(W1_s x + b1_s) + b2_s

Symbols: x [entry token dim]; A_t the skills of task t. Each task has one of its `own` [task hidden
dim]; `table` says which of the `shared` ones it uses besides (all of them where it is empty), a row
a task, in order. No gates and no balance loss; only active skills run or get a gradient.
Differs from the paper: skills start as copies of the trunk's block, so the start is the base up to
rounding; attention is the trunk's. A task with fewer skills than others runs one of them again with
weight 0. A task added later has an own skill that starts at the mean of the shared ones (of the
other tasks' own where there are none), and uses all shared ones.
Cost a token: |A_t| blocks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from taskgrove.errors import TaskgroveError
from taskgrove.sharing.choice import Parts, Point
from taskgrove.sharing.chosen import Chosen
from taskgrove.sharing.feed_forward import Between, Stack, feed_forwards, layer
from taskgrove.sharing.lora import key
from taskgrove.sharing.route import Route
from taskgrove.sharing.routers import fixed
from taskgrove.sharing.stacked import grow
from taskgrove.sharing.upcycle import copies


@dataclass(frozen=True)
class Skills:
    """Settings, a line each."""

    shared: int = 1  # skills that tasks have in common
    table: Sequence[Sequence[int]] = ()  # which of them each task uses; empty: all
    own: bool = True  # one skill of each task's own besides

    about: ClassVar[str] = "feed-forward blocks by a table of the tasks' skills (Dai et al. 2022)"
    starts_at_base: ClassVar[bool] = False

    def sites(self, trunk: nn.Module) -> list[str]:
        """The last layers of all feed-forward blocks."""
        return [block.down for block in feed_forwards(trunk)]

    def parts(self, trunk: nn.Module, sites: list[str], tasks: int) -> "SkillsParts":
        """Raises TaskgroveError where the table does not fit."""
        return SkillsParts(self, trunk, sites, tasks)

    def rows(self, tasks: int) -> list[list[int]]:
        """The shared skills of each task."""
        rows = [list(row) for row in self.table] or [list(range(self.shared))] * tasks
        every = list(range(self.shared))
        rows += [every] * (tasks - len(rows))
        for task, row in enumerate(rows):
            if len(set(row)) < len(row) or not set(row) <= set(every) or not (row or self.own):
                raise TaskgroveError(
                    f"task {task} has the skills {row}: give skills of 0 to {self.shared - 1}, each"
                    " once, and at least one where tasks have none of their own"
                )
        unused = set(every) - {skill for row in rows for skill in row}
        if unused:
            raise TaskgroveError(f"no task uses the skill {min(unused)}: leave it out")
        return rows


class SkillsParts(Parts):
    """Stacked copies of the blocks' layers: the tasks' own and the shared ones."""

    stacked: ClassVar[frozenset[str]] = frozenset({"own"})

    def __init__(self, choice: Skills, trunk: nn.Module, sites: list[str], tasks: int) -> None:
        super().__init__()
        self.choice, self.tasks = choice, tasks
        self.blocks = [block for block in feed_forwards(trunk) if block.down in sites]
        self.own, self.common = nn.ParameterDict(), nn.ParameterDict()
        choice.rows(tasks)
        for block in self.blocks:
            for name in (*block.ups, block.down):
                for kind, weight in layer(trunk, name).named_parameters():
                    if choice.own:
                        self.own[f"{key(name)}/{kind}"] = copies(weight, tasks, 0.0)
                    self.common[f"{key(name)}/{kind}"] = copies(weight, choice.shared, 0.0)
        self.between = Between(self.blocks, self._choose, self._stack)
        self.present: dict[str, Tensor] = {}
        self.table = (
            torch.zeros(0, 0),
            torch.zeros(0, 0),
        )  # of the batch: skills, gates [task choice]

    def points(self) -> Mapping[str, Point]:
        """In place of each block's layers."""
        return self.between.points()

    def begin(self, route: Route) -> None:
        """The present tasks' own skills, then the shared ones, in one stack a layer."""
        self.present = {
            name: torch.cat([route.chosen(self.own[name]), shared]) if self.choice.own else shared
            for name, shared in self.common.items()
        }
        rows, first = self.choice.rows(self.tasks), len(route.groups) if self.choice.own else 0
        mine = [[first + skill for skill in rows[task]] for task in route.groups]
        if self.choice.own:
            mine = [[place, *row] for place, row in enumerate(mine)]
        most = max(len(row) for row in mine)
        padded = [[*row, *[row[0]] * (most - len(row))] for row in mine]
        gates = [[1 / len(row)] * len(row) + [0.0] * (most - len(row)) for row in mine]
        self.table = torch.tensor(padded), torch.tensor(gates)

    def end(self) -> None:
        self.between.forget()
        self.present.clear()

    def add(self, tasks: int) -> None:
        self.tasks += tasks
        for name, own in self.own.items():
            shared = self.common[name].data
            grow(own, (shared if len(shared) else own.data).mean(0).expand(tasks, *own.shape[1:]))

    def _choose(self, n: int, x: Tensor, route: Route) -> Chosen:  # noqa: ARG002
        count = len(next(iter(self.present.values())))
        places = tuple(range(len(route.groups)))
        here = Route((), route.rows, route.starts, places)
        return fixed(*self.table, count, x.shape[1], here)

    def _stack(self, name: str) -> Stack:
        kept: dict[str, Any] = self.present
        return kept[f"{key(name)}/weight"], kept.get(f"{key(name)}/bias")
