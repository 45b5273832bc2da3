"""Checkpoints: one safetensors file that holds everything a run needs to go on.

Tensors (weights, optimiser, mixture) and one JSON string (counts, history) in the file's metadata.
The file is written aside, synced and renamed: after a kill at any moment the old or the new one is
there, whole. Nothing is pickled.
"""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from taskgrove.errors import TaskgroveError


def write(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Replaces `path` at once; leftovers of an earlier kill are overwritten."""
    aside = path.with_name(path.name + ".part")
    for left in path.parent.glob(".tmp*"):  # safetensors' own, of a run killed while it wrote
        left.unlink(missing_ok=True)
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(whole, aside, metadata={"facts": json.dumps(facts)})
    with aside.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(aside, path)


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and facts of `write`."""
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads((file.metadata() or {})["facts"])
            return {name: file.get_tensor(name) for name in file.keys()}, facts  # noqa: SIM118
    except (SafetensorError, KeyError, OSError) as error:
        raise TaskgroveError(
            f"{path} is missing or not whole ({error}); delete its folder to run that part again"
        ) from None


def write_json(path: Path, facts: Mapping[str, Any]) -> None:
    """Replaces a JSON file at once; what is no finite number is null."""
    aside = path.with_name(path.name + ".part")
    aside.write_text(json.dumps(finite(facts), indent=1, allow_nan=False), "utf-8")
    os.replace(aside, path)


def finite(value: Any) -> Any:
    """The same JSON with None for each number that is not finite.

    >>> finite({"a": [1.0, float("nan")]})
    {'a': [1.0, None]}
    """
    if isinstance(value, Mapping):
        return {name: finite(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_json(path: Path) -> dict[str, Any]:
    """The facts of `write_json`."""
    try:
        return json.loads(path.read_text("utf-8"))
    except (ValueError, OSError) as error:
        raise TaskgroveError(
            f"{path} cannot be read ({error}); delete its folder to run that part again"
        ) from None
