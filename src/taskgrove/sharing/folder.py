"""The model folder: `taskgrove.json`, `heads.safetensors`, a folder for each trunk, and
`sharing.safetensors` where parts of each task's own are attached to it.

Safetensors and JSON only; nothing is pickled, and nothing that is read can run code. A trunk from
transformers opens there with `AutoModel`.
"""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from taskgrove.backbones import Backbone, load_backbone, save_backbone
from taskgrove.errors import TaskgroveError
from taskgrove.sharing.model import MultiTaskModel
from taskgrove.sharing.table import from_json, to_json
from taskgrove.tasks.inputs import Inputs
from taskgrove.tasks.task import Task

FORMAT, CARD = 1, "taskgrove.json"
MALFORMED = (KeyError, TypeError, ValueError, AttributeError, IndexError)  # JSON of another shape


def save(
    model: MultiTaskModel, folder: str | Path, facts: Mapping[str, object] | None = None
) -> None:
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
    for trunk, name in zip(model.trunks, _trunk_names(len(model.trunks)), strict=True):
        save_backbone(trunk, aside / name)  # pyright: ignore[reportArgumentType]
    heads = {k: v.detach().cpu().contiguous() for k, v in model.heads.state_dict().items()}
    save_file(heads, aside / "heads.safetensors")
    if model.sharing is not None:
        parts = {k: v.detach().cpu().contiguous() for k, v in model.sharing.state_dict().items()}
        save_file(parts, aside / "sharing.safetensors")
    described = {
        "format": FORMAT,
        "tasks": [task.to_json() for task in model.tasks.values()],
        "trunk_of": model.trunk_of,
        "inputs": {task: spec.to_json() for task, spec in model.inputs.items()},
        "sharing": None if model.sharing is None else to_json(model.sharing.rules),
        "facts": dict(facts or {}),
    }
    (aside / CARD).write_text(json.dumps(described, indent=1), "utf-8")
    if folder.exists():
        shutil.rmtree(folder)
    os.replace(aside, folder)


def load(folder: str | Path, make: Callable[[], Backbone] | None = None) -> MultiTaskModel:
    """The model that `save` wrote, in evaluation mode on the CPU.

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
    _read(model.heads, folder / "heads.safetensors")
    if model.sharing is not None:
        _read(model.sharing, folder / "sharing.safetensors")
    return model.eval()


def _read(module: nn.Module, path: Path) -> None:
    """Copies a file's tensors into a module, all of them or none."""
    try:
        module.load_state_dict(load_file(path))
    except (SafetensorError, OSError, RuntimeError) as error:
        reason = str(error).splitlines()[-1].strip()
        raise TaskgroveError(
            f"{path} is not a whole {path.stem} file ({reason}); copy or train the model folder"
            " again"
        ) from None


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
    model = MultiTaskModel(tasks, trunks, trunk_of, inputs)
    if described.get("sharing") is not None:
        model.share(from_json(described["sharing"]))
    return model


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
