"""What a learned merge found, as JSON, pictures and lines for a terminal."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from taskgrove import __version__
from taskgrove.measuring.learned_plots import coefficient_map, entropy_curve, predicted_classes
from taskgrove.merging.learned.adamerging import COLLAPSE, AdaMerged

SHOWN = 1000  # classes of a task, at most: not a language model's whole vocabulary
Scores = dict[str, dict[str, float]]  # {task: {base, before, tuned, after: accuracy}}


@dataclass(frozen=True)
class Learning:
    """How coefficients are learned; see merging/learned/adamerging."""

    steps: int = 40
    learning_rate: float = 1e-2
    batch: int = 16  # rows of each task in a step
    granularity: str = "tensor"  # or "task"
    init: float = 0.3
    plus: bool = False  # AdaMerging++: vectors cleaned by TIES
    density: float = 0.2  # of TIES
    max_length: int = 128  # tokens of a row
    seed: int = 0


@dataclass(frozen=True)
class LearnedMerge:
    """What a merge leaves, beside the folder."""

    out: Path
    found: AdaMerged
    scores: Scores
    classes: dict[str, tuple[str, ...]]  # of the tasks that have names for them
    notes: tuple[str, ...]


def record(merge: LearnedMerge, names: Sequence[str], how: Learning) -> dict[str, Any]:
    """What coefficients.json keeps."""
    return {
        "method": "adamerging",
        "models": list(names),
        "tensors": list(merge.found.tensors),
        "values": merge.found.coefficients.tolist(),
        "settings": asdict(how),
        "tasks": list(merge.found.tasks),
        "entropy": merge.found.entropy.tolist(),
        "predictions": {task: n.tolist() for task, n in _few(merge.found.predictions).items()},
        "classes": {task: list(names) for task, names in merge.classes.items()},
        "accuracy": merge.scores,
        "notes": list(merge.notes),
        "taskgrove": __version__,
    }


def write_record(merge: LearnedMerge, names: Sequence[str], how: Learning, folder: Path) -> None:
    """coefficients.json and the pictures."""
    found = merge.found
    (folder / "coefficients.json").write_text(json.dumps(record(merge, names, how), indent=1))
    values = found.coefficients.cpu().numpy()
    coefficient_map(values, names, found.tensors, folder / "coefficients.png")
    entropy_curve(found.entropy.numpy(), found.tasks, folder / "entropy.png")
    if found.predictions:
        shown = {task: n.tolist() for task, n in found.predictions.items()}
        warned = [task for task, n in shown.items() if max(n) > COLLAPSE * sum(n)]
        predicted_classes(shown, merge.classes, warned, folder / "predictions.png")


def told(merge: LearnedMerge) -> str:
    """For a terminal."""
    first, last = merge.found.entropy[0], merge.found.entropy[-1]
    lines = []
    for n, task in enumerate(merge.found.tasks):
        words = f"{task}: entropy {first[n]:.3f} to {last[n]:.3f} nats"
        if task in merge.scores:
            words += "; accuracy " + ", ".join(
                f"{what} {value:.3f}" for what, value in merge.scores[task].items()
            )
        lines.append(words)
    return "\n".join([*lines, *(f"note: {note}" for note in merge.notes)])


def _few(predictions: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Not a language model's whole vocabulary."""
    return {task: n for task, n in predictions.items() if len(n) <= SHOWN}
