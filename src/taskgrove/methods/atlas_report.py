"""What a composition by aTLAS is asked for and what it found: JSON, a picture, lines to print."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from taskgrove import __version__
from taskgrove.measuring.learned_plots import coefficient_map
from taskgrove.merging.learned.atlas import Composed
from taskgrove.methods.atlas_target import Target


@dataclass(frozen=True)
class Composing:
    """How a model is composed; None: as the preset of few shots or of test time has it."""

    steps: int | None = None
    learning_rate: float | None = None
    partitions: int = 1  # K of aTLAS x K
    batch: int = 48
    folds: int = 4  # of the cross-validation on the shots; 0: compose without it
    classes: tuple[str, ...] = ()  # of rows without labels, for a head of label texts
    max_length: int = 128  # tokens of a row
    seed: int = 0


@dataclass(frozen=True)
class AtlasMerge:
    """What a composition leaves, beside the folder."""

    out: Path
    found: Composed
    classes: tuple[str, ...]
    scores: dict[str, float]  # accuracy on the validation rows: base, composed
    notes: tuple[str, ...]


def told(merge: AtlasMerge) -> str:
    """For a terminal."""
    c = merge.found.coefficients
    lines = [f"{merge.found.trained} coefficients, {c.min():.3f} to {c.max():.3f}"]
    if len(merge.found.losses):
        first, last = merge.found.losses[[0, -1]].mean(1).tolist()
        lines[0] += f"; loss {first:.3f} to {last:.3f}"
    if merge.scores:
        shown = ", ".join(f"{what} {value:.3f}" for what, value in merge.scores.items())
        lines.append(f"accuracy on the validation rows: {shown}")
    return "\n".join([*lines, *(f"note: {note}" for note in merge.notes)])


def write(
    merge: AtlasMerge, target: Target, names: Sequence[str], how: Composing, part: Path
) -> None:
    """coefficients.json, its picture, and a head of label texts."""
    found = merge.found
    facts: dict[str, Any] = {
        "method": "atlas",
        "models": list(names),
        "tensors": list(found.tensors),
        "values": found.coefficients.tolist(),
        "settings": asdict(how),
        "losses": found.losses.mean(1).tolist() if len(found.losses) else [],
        "classes": list(target.classes),
        "head": "the base's own" if target.own else "label texts: 20 cos(mean token, row of W)",
        "accuracy": merge.scores,
        "notes": list(merge.notes),
        "taskgrove": __version__,
    }
    (part / "coefficients.json").write_text(json.dumps(facts, indent=1))
    c = found.coefficients.cpu()
    shown = c.mean(-1) if how.partitions > 1 else c  # [model tensor]
    coefficient_map(shown.numpy(), names, found.tensors, part / "coefficients.png")
    if target.W is not None:
        save_file({"W": target.W.contiguous()}, part / "label_head.safetensors")
