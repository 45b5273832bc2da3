"""A pass over rows that sums tensors, is kept now and then, and goes on where it was stopped.

.OUT.part/state.safetensors     the sums so far, and in its metadata how far and of what
OUT/model.safetensors           what is made of them at the end
"""

import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from taskgrove.errors import TaskgroveError

STATE, WEIGHTS, RECORD = "state.safetensors", "model.safetensors", "statistics.json"
Progress = Callable[[int, int], None]  # (rows done, of all)


@dataclass(frozen=True)
class Pass:
    """What is summed, and where it goes."""

    out: Path
    about: Mapping[str, str | int]  # what the sums are of; another pass does not go on with them
    steps: int
    keep_seconds: float

    @property
    def part(self) -> Path:
        return self.out.with_name(f".{self.out.name}.part")

    @property
    def mark(self) -> str:
        """Of the model's and the data's files as well as of the settings."""
        files = [Path(str(self.about[name])) for name in ("model", "data")]
        files = [p for f in files for p in (sorted(f.glob("*.safetensors")) if f.is_dir() else [f])]
        stamps = [(str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in files]
        return blake2b(json.dumps([dict(self.about), stamps]).encode(), digest_size=16).hexdigest()


def check_out(out: Path) -> None:
    """Before anything is computed."""
    if out.exists():
        raise TaskgroveError(f"{out} exists; give a folder that does not, or remove it.")
    if not out.absolute().parent.is_dir():
        raise TaskgroveError(f"{out}: there is no folder {out.absolute().parent}; make it first.")


def run(
    this: Pass,
    sums: Mapping[str, Tensor],
    step: Callable[[int], None],
    finish: Callable[[], Mapping[str, Tensor]],
    progress: Progress | None = None,
) -> None:
    """Adds to `sums`, in place, step by step; then writes what `finish` makes of them."""
    done = _restored(this, sums)
    kept = time.monotonic()
    try:
        for n in range(done, this.steps):
            step(n)
            done = n + 1
            if time.monotonic() - kept >= this.keep_seconds and done < this.steps:
                _keep(this, sums, done)
                kept = time.monotonic()
            if progress is not None:
                progress(done, this.steps)
    except KeyboardInterrupt:
        _keep(this, sums, done)
        raise
    part = this.part
    part.mkdir(exist_ok=True)
    save_file({n: t.cpu().contiguous() for n, t in finish().items()}, part / WEIGHTS)
    (part / RECORD).write_text(json.dumps(dict(this.about), indent=2) + "\n", "utf-8")
    (part / STATE).unlink(missing_ok=True)
    part.rename(this.out)


def _keep(this: Pass, sums: Mapping[str, Tensor], done: int) -> None:
    this.part.mkdir(exist_ok=True)
    aside = this.part / f"{STATE}.new"
    metadata = {"mark": this.mark, "done": str(done)}
    save_file({n: t.cpu().contiguous() for n, t in sums.items()}, aside, metadata)
    os.replace(aside, this.part / STATE)


def _restored(this: Pass, sums: Mapping[str, Tensor]) -> int:
    """Steps that are done; what another pass left is removed."""
    if (this.part / STATE).is_file():
        with safe_open(this.part / STATE, "pt") as file:
            facts = file.metadata() or {}
            if facts.get("mark") == this.mark and set(file.keys()) == set(sums):
                for name, total in sums.items():
                    total.copy_(file.get_tensor(name))
                return int(facts["done"])
    shutil.rmtree(this.part, ignore_errors=True)
    return 0
