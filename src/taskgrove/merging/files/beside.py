"""Beside: folders of numbers that a method needs of each model besides its weights.

A Fisher folder has a tensor for each merged one, of its shape; a Gram folder has matrices for the
linear layers, and nothing for other tensors. `taskgrove merge-statistics` writes both.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from taskgrove.errors import TaskgroveError, did_you_mean, listed
from taskgrove.merging.blocks import Reading
from taskgrove.merging.checkpoint import open_checkpoint
from taskgrove.merging.models import Model
from taskgrove.merging.static.static import Static


def open_beside(
    method: str, static: Static, given: Mapping[str, Sequence[str]]
) -> dict[str, list[Model]]:
    """The folders, opened."""
    if unknown := [kind for kind in given if kind not in static.beside]:
        hint = did_you_mean(unknown[0], static.beside)
        raise TaskgroveError(
            f'{method} reads no "{unknown[0]}" folders; it reads {listed(static.beside) or "none"}.'
            f"{hint}"
        )
    return {kind: [open_checkpoint(Path(place)) for place in given[kind]] for kind in given}


def problems_beside(
    method: str, static: Static, reading: Reading, merged: Sequence[str]
) -> list[str]:
    """What stands against these folders; nothing where all fits."""
    found = []
    for kind in static.beside:
        models = reading.beside.get(kind, ())
        if len(models) != len(reading.tuned):
            found.append(
                f"{method} needs a {kind} folder for each of the {len(reading.tuned)} models, got"
                f" {len(models)}: write them with `taskgrove merge-statistics {kind}`, and give"
                f" --{kind} F1 F2."
            )
            continue
        for model in models:
            found += _fits(static, reading, model, models[0], merged)
    return found


def _fits(
    static: Static, reading: Reading, model: Model, first: Model, merged: Sequence[str]
) -> list[str]:
    layout = reading.layout
    if static.takes == "matrix":
        lacks = [n for n in first.entries if n not in model.entries]
        more = [n for n in model.entries if n not in layout.entries or n not in first.entries]
        shapes = [n for n in model.entries if n not in more and not _square(model, layout, n)]
    else:
        lacks, more = [n for n in merged if n not in model.entries], []
        entries = {n: e for n, e in model.entries.items() if n in merged}
        shapes = [n for n, entry in entries.items() if entry.shape != layout.entries[n].shape]
    told = {"it lacks": lacks, "the models lack": more, "wrong shapes:": shapes}
    words = [f"{what} {listed(names)}" for what, names in told.items() if names]
    if not words:
        return []
    return [f"{model.label} does not fit {layout.label}: {'; '.join(words)}. Was it made of it?"]


def _square(model: Model, layout: Model, name: str) -> bool:
    """[in in] for a weight [out in], or [1 in in] for a weight that is [in out]."""
    shape, weight = model.entries[name].shape, layout.entries[name].shape
    wide = len(weight) == 2 and shape == (weight[1], weight[1])
    return wide or (len(weight) == 2 and shape == (1, weight[0], weight[0]))
