"""TensorBoard scalars of one run: always one event file, also after kills.

A resumed run writes the history of its checkpoint again into a new file and removes the older ones.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

MOST_TASKS = 8  # with more, a picture of the cosines and their spread in place of each
CELL = 12  # pixels of a task's row and column in the picture


class Scalars:
    """Losses, scores and rates of each look, by training step."""

    def __init__(self, folder: Path, history: Sequence[Mapping[str, Any]]) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter

        old = list(folder.glob("events.out.tfevents.*"))
        self.writer = SummaryWriter(str(folder))
        for path in old:
            path.unlink()
        for look in history:
            self.add(look)

    def add(self, look: Mapping[str, Any]) -> None:
        """One look: {"steps": n, "loss": {task: x}, ..., "balance": see diagnostics}."""
        for name, value in look.items():
            if name == "balance":
                for tag, number in balance_scalars(value):
                    self.writer.add_scalar(tag, number, look["steps"])
                if "cosines" in value:
                    picture = heat_map(value["cosines"]["values"])
                    self.writer.add_image(
                        "balance/cosines", picture, look["steps"], dataformats="HWC"
                    )
            elif isinstance(value, Mapping):
                for task, score in value.items():
                    self.writer.add_scalar(f"{name}/{task}", score, look["steps"])
            elif name != "steps":
                self.writer.add_scalar(name, value, look["steps"])
        self.writer.flush()

    def close(self) -> None:
        """Flushes and closes the file."""
        self.writer.close()


def balance_scalars(balance: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """(tag, number) of what a look knows of gradients and weights.

    >>> [tag for tag, _ in balance_scalars({"weights": {"a": 0.5}, "fallbacks": 0})]
    ['balance/fallbacks', 'weight/a']
    """
    for name in ("conflicts", "fallbacks"):
        if balance.get(name) is not None:
            yield f"balance/{name}", balance[name]
    for task, weight in balance.get("weights", {}).items():
        yield f"weight/{task}", weight
    if "cosines" in balance:
        tasks, values = balance["cosines"]["tasks"], balance["cosines"]["values"]
        pairs = [
            (f"cosine/{tasks[i]}/{tasks[j]}", values[i][j])
            for i, j in combinations(range(len(tasks)), 2)
            if values[i][j] is not None
        ]
        if len(tasks) <= MOST_TASKS:
            yield from pairs
        elif pairs:
            found = [cosine for _, cosine in pairs]
            yield "balance/cosine_mean", float(np.mean(found))
            yield "balance/cosine_least", min(found)
            yield "balance/cosine_most", max(found)


def heat_map(values: Sequence[Sequence[float | None]]) -> np.ndarray:
    """Cosines as a picture: blue where gradients agree, orange in conflict, grey unknown."""
    cos = np.array(values, dtype=float)[..., None]  # [task task 1], None is NaN
    paper, ends = np.full(3, 245.0), (np.array([11.0, 95, 165]), np.array([200.0, 90, 0]))
    found = paper + np.abs(cos) * (np.where(cos > 0, *ends) - paper)
    found = np.nan_to_num(found, nan=128).astype(np.uint8)
    return found.repeat(CELL, 0).repeat(CELL, 1)  # [row column 3]
