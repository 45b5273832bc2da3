"""TensorBoard scalars of one run: always one event file, also after kills.

A resumed run writes the history of its checkpoint again into a new file and removes the older ones.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


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
        """One look: {"steps": n, "loss": {task: x}, "validation": {task: x}, ...}."""
        for name, value in look.items():
            if isinstance(value, Mapping):
                for task, score in value.items():
                    self.writer.add_scalar(f"{name}/{task}", score, look["steps"])
            elif name != "steps":
                self.writer.add_scalar(name, value, look["steps"])
        self.writer.flush()

    def close(self) -> None:
        """Flushes and closes the file."""
        self.writer.close()
