"""MultiTaskModel: one or several trunks, and one head a task.

Hard sharing (Caruana 1997, Multitask Learning) is one trunk for all tasks; separate models are one
trunk a task; groups of tasks lie between; with `share` one trunk has parts of each task's own.
`trunk_of` says which, so each way to share is the same type. Symbols: inputs {name: [batch ...]};
features [batch dim]; outputs {task: [row out]}, the rows of `Route.of(task)` in their order.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from taskgrove.backbones import Backbone
from taskgrove.backbones.maps import map_width
from taskgrove.errors import TaskgroveError, did_you_mean, listed
from taskgrove.sharing.grouped import grouped
from taskgrove.sharing.route import Route, route
from taskgrove.sharing.sharing import Rule, Sharing
from taskgrove.tasks.heads import dense_head, head
from taskgrove.tasks.inputs import Inputs
from taskgrove.tasks.task import MAPS, Task


class MultiTaskModel(nn.Module):
    """Trunks and heads; `inputs` says which columns of a user's rows each task reads."""

    def __init__(
        self,
        tasks: Sequence[Task],
        trunks: Sequence[Backbone],
        trunk_of: Mapping[str, int],
        inputs: Mapping[str, Inputs],
    ) -> None:
        super().__init__()
        self.tasks = {task.name: task for task in tasks}
        self.trunk_of = dict(trunk_of)
        self.inputs = dict(inputs)
        self.number = {task.name: n for n, task in enumerate(tasks)}
        self.slot = dict(self.number)  # each task's place in stacked parts
        self.trunks = nn.ModuleList(trunks)  # pyright: ignore[reportArgumentType]
        self.heads = nn.ModuleList(
            dense_head(map_width(trunks[trunk_of[t.name]]), t, inputs[t.name].image_size)
            if t.kind in MAPS
            else head(trunks[trunk_of[t.name]].width, t)
            for t in tasks
        )
        self.sharing: Sharing | None = None

    def share(self, rules: Sequence[Rule], *, seed: int = 0, freeze: bool = True) -> Sharing:
        """Attaches parts of each task's own to the one trunk, whose own weights then stay fixed.

        The parts are drawn by `seed`; the global generator stays as it was. `freeze` False trains
        the trunk with them. A row with labels of several tasks runs once for each of them.
        """
        if len(self.trunks) > 1 or self.sharing is not None:
            has = "has shared parts already" if self.sharing else f"has {len(self.trunks)} trunks"
            raise TaskgroveError(f"the model {has}: parts are attached once, to one trunk")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.sharing = Sharing(self.trunks[0], rules, list(self.tasks))
        if freeze:
            self.trunks.requires_grad_(False)
        return self.sharing

    @property
    def common(self) -> nn.ModuleList:
        """What balancing methods call shared: trunks, and parts attached to them."""
        return nn.ModuleList([*self.trunks, *([self.sharing] if self.sharing else [])])

    def head(self, task: str) -> Any:
        """The head of `task`."""
        return self.heads[self.number[task]]  # pyright: ignore[reportReturnType]

    def trunk(self, task: str) -> Backbone:
        """The trunk that serves `task`."""
        return self.trunks[self.trunk_of[task]]  # pyright: ignore[reportReturnType]

    def forward(
        self,
        inputs: Mapping[str, Tensor],
        route: Route,
        *,
        apart: bool = False,
        seen: list[Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Outputs of each present task for its own rows; each trunk runs once.

        `apart`: a graph a head, so that a task's gradient runs through no other task's head; else
        heads with as many outputs run together. `seen` takes up each trunk's features.
        """
        if self.sharing is not None:
            return self._shared(inputs, route, apart, seen)
        entries = route.items()
        outputs: dict[str, Tensor] = {}
        for trunk in sorted({self.trunk_of[task] for task, _ in entries}):
            mine = [(task, rows) for task, rows in entries if self.trunk_of[task] == trunk]
            if len(self.trunks) > 1:  # only the rows that this trunk serves
                used, position = torch.unique(
                    torch.cat([rows for _, rows in mine]), return_inverse=True
                )
                inputs_here = {name: value[used] for name, value in inputs.items()}
                places = position.split([len(rows) for _, rows in mine])
            else:
                inputs_here, places = inputs, [rows for _, rows in mine]
            names = [task for task, _ in mine]
            features, grid = self._features(trunk, inputs_here, names)
            if seen is not None:
                seen.append(features)
            outputs |= self._outputs(features, names, places, apart, grid)
        return {task: outputs[task] for task in route.tasks}

    def _shared(
        self, inputs: Mapping[str, Tensor], route: Route, apart: bool, seen: list[Tensor] | None
    ) -> dict[str, Tensor]:
        """The trunk runs over entries, sorted by task, each with its own task's parts."""
        sharing: Any = self.sharing
        count = torch.arange(len(route.rows), device=route.rows.device)
        numbers = tuple(self.slot[task] for task in route.tasks)
        with sharing.using(Route(route.tasks, count, route.starts, numbers)):
            inputs = {n: value[route.rows] for n, value in inputs.items()}
            features, grid = self._features(0, inputs, route.tasks)
        if seen is not None:
            seen.append(features)
        places = list(count.split(route.sizes))
        return self._outputs(features, list(route.tasks), places, apart, grid)

    def _features(
        self, trunk: int, inputs: Mapping[str, Tensor], tasks: Sequence[str]
    ) -> tuple[Tensor, torch.Size | None]:
        """Features [batch dim]; where a task's targets are maps the trunk's map [batch *grid]
        stands after them, laid flat, so that both are one tensor."""
        if not any(self.tasks[task].kind in MAPS for task in tasks):
            return self.trunks[trunk](inputs), None
        features, m = self.trunks[trunk].with_maps(inputs)  # pyright: ignore
        return torch.cat([features, m.flatten(1)], 1), m.shape[1:]

    def _outputs(
        self,
        features: Tensor,
        tasks: Sequence[str],
        places: Sequence[Tensor],
        apart: bool,
        grid: torch.Size | None = None,
    ) -> dict[str, Tensor]:
        if grid is not None:
            width = features.shape[1] - grid.numel()
            m = features[:, width:].unflatten(1, grid)  # [batch dim row column]
            rows_of = dict(zip(tasks, places, strict=True))
            plain = [task for task in tasks if self.tasks[task].kind not in MAPS]
            found = {task: self.head(task)(m[rows_of[task]]) for task in tasks if task not in plain}
            left = [rows_of[task] for task in plain]
            found |= self._outputs(features[:, :width], plain, left, apart)
            return {task: found[task] for task in tasks}
        if not apart:
            return self._heads(features, tasks, places)
        pairs = zip(tasks, places, strict=True)
        return {task: self.head(task)(features[rows]) for task, rows in pairs}

    def _heads(
        self, features: Tensor, tasks: Sequence[str], places: Sequence[Tensor]
    ) -> dict[str, Tensor]:
        """Heads with as many outputs run together."""
        alike: dict[int, list[int]] = {}
        for number, task in enumerate(tasks):
            alike.setdefault(self.tasks[task].outputs, []).append(number)
        outputs: dict[str, Tensor] = {}
        for numbers in alike.values():
            heads = [self.head(tasks[n]) for n in numbers]
            here = route({tasks[n]: places[n] for n in numbers})
            W, b = torch.stack([h.weight for h in heads]), torch.stack([h.bias for h in heads])
            parts = grouped(here.spread(features), W, here, b).split(here.sizes)  # [row out] each
            outputs |= {tasks[n]: part for n, part in zip(numbers, parts, strict=True)}
        return outputs

    def save(self, folder: str | Path, facts: Mapping[str, object] | None = None) -> None:
        """Writes the model folder, see `sharing.folder.save`."""
        from taskgrove.sharing.folder import save

        save(self, folder, facts)


def known_task(model: MultiTaskModel, name: str | None) -> Task:
    """The task called `name`; the only one when `name` is None."""
    if name is None and len(model.tasks) == 1:
        return next(iter(model.tasks.values()))
    if name is None or name not in model.tasks:
        got = "no task was named" if name is None else f'there is no task "{name}"'
        hint = did_you_mean(name or "", model.tasks)
        raise TaskgroveError(f"{got}; the model has {listed(model.tasks)}.{hint}")
    return model.tasks[name]
