"""Journal: what of a merge is done, a line each, so that a killed one goes on.

{"mark": ...}                         the plan it belongs to
{"seen": {name: [dtype, numbers]}}    what the method saw of the whole model
{"tensor": name, "digests": [...]}    a tensor that is written
"""

import json
from dataclasses import dataclass, field
from io import TextIOWrapper
from pathlib import Path
from typing import Any

import numpy as np

from taskgrove.merging.static.static import Seen


@dataclass
class Journal:
    """Open for adding lines."""

    path: Path
    file: TextIOWrapper
    seen: Seen | None = None
    done: dict[str, list[str]] = field(default_factory=dict)

    @staticmethod
    def open(path: Path, mark: str) -> "Journal":
        """Goes on with the journal of the same plan; that of another is begun anew, and the files
        beside it are removed."""
        lines = _lines(path)
        if not lines or lines[0].get("mark") != mark:
            for other in path.parent.iterdir():
                other.unlink()
            path.write_text(json.dumps({"mark": mark}) + "\n", "utf-8")
            lines = []
        found = Journal(path, path.open("a", encoding="utf-8"))
        for line in lines[1:]:
            if "seen" in line:
                found.seen = {n: np.array(v, d) for n, (d, v) in line["seen"].items()}
            else:
                found.done[line["tensor"]] = line["digests"]
        return found

    def saw(self, seen: Seen) -> None:
        """Keeps what was seen; numbers go through text without loss."""
        self.seen = seen
        self._add({"seen": {n: [a.dtype.name, a.tolist()] for n, a in seen.items()}})

    def finished(self, name: str, digests: list[str]) -> None:
        """Keeps that a tensor is written."""
        self.done[name] = digests
        self._add({"tensor": name, "digests": digests})

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def _add(self, line: dict[str, Any]) -> None:
        self.file.write(json.dumps(line) + "\n")
        self.file.flush()


def _lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines; one that a kill cut short is dropped, and rewritten."""
    if not path.is_file():
        return []
    text = path.read_text("utf-8")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        path.write_text(whole, "utf-8")
    return [json.loads(line) for line in whole.splitlines()]
