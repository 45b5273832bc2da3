"""MultiTaskModel: one or several trunks, and one head a task.

Hard sharing (Caruana 1997, Multitask Learning) is one trunk for all tasks; separate models are one
trunk a task; groups of tasks lie between. `trunk_of` says which, so each way to share is the same
type. Symbols: inputs {name: [batch ...]}; features [batch dim]; outputs {task: [row out]}, the
rows of `Route.of(task)` in their order.
"""

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from taskgrove.backbones import Backbone, load_backbone, save_backbone
from taskgrove.errors import TaskgroveError, did_you_mean, listed
from taskgrove.sharing.grouped import grouped
from taskgrove.sharing.route import Route
from taskgrove.tasks.heads import head
from taskgrove.tasks.inputs import Inputs
from taskgrove.tasks.task import Task

FORMAT, CARD = 1, "taskgrove.json"
MALFORMED = (KeyError, TypeError, ValueError, AttributeError, IndexError)  # JSON of another shape


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
        self.trunks = nn.ModuleList(trunks)  # pyright: ignore[reportArgumentType]
        self.heads = nn.ModuleList(head(trunks[trunk_of[t.name]].width, t) for t in tasks)

    def head(self, task: str) -> nn.Linear:
        """The head of `task`."""
        return self.heads[self.number[task]]  # pyright: ignore[reportReturnType]

    def trunk(self, task: str) -> Backbone:
        """The trunk that serves `task`."""
        return self.trunks[self.trunk_of[task]]  # pyright: ignore[reportReturnType]

    def forward(self, inputs: Mapping[str, Tensor], route: Route) -> dict[str, Tensor]:
        """Outputs of each present task for its own rows; each trunk runs once."""
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
            features = self.trunks[trunk](inputs_here)  # [batch dim]
            outputs |= self._heads(features, [task for task, _ in mine], places)
        return {task: outputs[task] for task in route.tasks}

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
            sizes = [len(places[n]) for n in numbers]
            rows = torch.cat([places[n] for n in numbers])  # [entry]
            found = grouped(
                features[rows], [h.weight for h in heads], [h.bias for h in heads], sizes
            )
            parts = found.split(sizes)  # [row out] each
            outputs |= {tasks[n]: part for n, part in zip(numbers, parts, strict=True)}
        return outputs

    def save(self, folder: str | Path, facts: Mapping[str, object] | None = None) -> None:
        """Writes the model folder: `taskgrove.json`, `heads.safetensors`, `backbone*/`.

        Written aside and renamed; a trunk from transformers opens there with `AutoModel`.
        `facts` (JSON) travel along: method, seed, scores, versions. An earlier model folder is
        replaced; any other folder that holds something is refused.
        """
        folder = Path(folder).resolve()
        if folder.exists() and not _replaceable(folder):
            raise TaskgroveError(f"{folder} is there and is no model folder: name another")
        aside = folder.with_name(f".{folder.name}.part")
        shutil.rmtree(aside, ignore_errors=True)  # a killed run's
        aside.mkdir(parents=True)
        for trunk, name in zip(self.trunks, _trunk_names(len(self.trunks)), strict=True):
            save_backbone(trunk, aside / name)  # pyright: ignore[reportArgumentType]
        heads = {k: v.detach().cpu().contiguous() for k, v in self.heads.state_dict().items()}
        save_file(heads, aside / "heads.safetensors")
        described = {
            "format": FORMAT,
            "tasks": [task.to_json() for task in self.tasks.values()],
            "trunk_of": self.trunk_of,
            "inputs": {task: spec.to_json() for task, spec in self.inputs.items()},
            "facts": dict(facts or {}),
        }
        (aside / CARD).write_text(json.dumps(described, indent=1), "utf-8")
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(aside, folder)


def load(folder: str | Path, make: Callable[[], Backbone] | None = None) -> MultiTaskModel:
    """The model that `MultiTaskModel.save` wrote, in evaluation mode on the CPU.

    `make` gives a trunk whose code is the user's own, as it did for training. The global random
    generator is left as it was.
    """
    folder = Path(folder)
    described = _described(folder)
    try:
        with torch.random.fork_rng(devices=[]):
            model = _built(folder, described, make)
    except MALFORMED as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise TaskgroveError(
            f"a JSON file of the model {folder} is damaged ({reason}); copy or train it again"
        ) from None
    path = folder / "heads.safetensors"
    try:
        model.heads.load_state_dict(load_file(path))
    except (SafetensorError, OSError, RuntimeError) as error:
        reason = str(error).splitlines()[-1].strip()
        raise TaskgroveError(
            f"{path} is not a whole heads file ({reason}); copy or train the model folder again"
        ) from None
    return model.eval()


def _built(
    folder: Path, described: Mapping[str, Any], make: Callable[[], Backbone] | None
) -> MultiTaskModel:
    """The model of a folder, its heads still random."""
    tasks = [Task.from_json(task) for task in described["tasks"]]
    trunk_of = described["trunk_of"]
    used = sorted(set(trunk_of.values()))
    if used != list(range(len(used))) or not used:
        raise ValueError(f"trunk_of numbers the trunks {used}")
    inputs = {task.name: Inputs.from_json(described["inputs"][task.name]) for task in tasks}
    trunks = [
        load_backbone(folder / name, make() if make else None) for name in _trunk_names(len(used))
    ]
    return MultiTaskModel(tasks, trunks, trunk_of, inputs)


def known_task(model: MultiTaskModel, name: str | None) -> Task:
    """The task called `name`; the only one when `name` is None."""
    if name is None and len(model.tasks) == 1:
        return next(iter(model.tasks.values()))
    if name is None or name not in model.tasks:
        got = "no task was named" if name is None else f'there is no task "{name}"'
        hint = did_you_mean(name or "", model.tasks)
        raise TaskgroveError(f"{got}; the model has {listed(model.tasks)}.{hint}")
    return model.tasks[name]


def _trunk_names(count: int) -> list[str]:
    return ["backbone"] if count == 1 else [f"backbone-{n}" for n in range(count)]


def _replaceable(folder: Path) -> bool:
    """Whether a save may take the place of what is there: nothing, or an earlier model."""
    return folder.is_dir() and ((folder / CARD).is_file() or not any(folder.iterdir()))


def _described(folder: Path) -> dict[str, Any]:
    path = folder / CARD
    if not path.is_file():
        what = f"holds no {CARD}" if folder.is_dir() else "is not there"
        inside = folder / "model"  # of a run folder
        hint = f' Did you mean "{inside}"?' if (inside / CARD).is_file() else ""
        raise TaskgroveError(f"{folder} is not a model folder: it {what}.{hint}")
    try:
        described = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise TaskgroveError(f"{path} cannot be read ({error}); train or copy it again") from None
    found = described.get("format") if isinstance(described, dict) else None
    if found != FORMAT:
        fix = "upgrade taskgrove" if isinstance(found, int) else "train or copy it again"
        raise TaskgroveError(f"{path} has format {found!r}, this taskgrove reads {FORMAT}: {fix}")
    return described
