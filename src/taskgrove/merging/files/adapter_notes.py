"""Adapter notes: what a user should know of an adapter that can be merged all the same."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from taskgrove.merging.files.adapter_config import AdapterConfig
from taskgrove.merging.files.lora import Change
from taskgrove.merging.fit import OUTPUT, whole
from taskgrove.merging.models import Model
from taskgrove.merging.static.static import Array


def other_base(folder: Path, config: AdapterConfig, base: Model) -> list[str]:
    """A word where the adapter names another base; the shapes fit all the same."""
    named = config.base.rstrip("/")
    label = base.label.rstrip("/")
    same = Path(named).name.casefold() == Path(label).name.casefold()
    cached = named.replace("/", "--") in label  # a snapshot in the hub's cache
    if not named or same or cached:
        return []
    return [f'{folder} says that it was trained on "{named}"; it is merged onto {label}.']


def tied(
    folder: Path,
    base: Model,
    adapter: Model,
    saved: dict[str, str],
    changes: Mapping[str, Change],
) -> list[str]:
    """Saved copies of a tied output are left out; tied embeddings change on both sides."""
    notes = []
    if OUTPUT in base.entries:
        return notes
    if OUTPUT in saved:
        mine = whole(adapter, saved[OUTPUT])
        alike = [n for n, part in saved.items() if n != OUTPUT and _equal(adapter, part, mine)]
        if alike:
            del saved[OUTPUT]
            notes.append(f'{folder}: "{OUTPUT}" is "{alike[0]}" again (tied), and is left out.')
    if any("lora_embedding_" in change.A for change in changes.values()):
        notes.append(
            f"{folder} adapts the input embedding; where the output layer is tied to it, merging"
            " changes that as well, as PEFT's own merge does."
        )
    return notes


def _equal(model: Model, name: str, numbers: Array) -> bool:
    return model.entries[name].size == numbers.size and np.array_equal(whole(model, name), numbers)
