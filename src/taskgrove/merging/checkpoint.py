"""A checkpoint on disk: a folder of safetensors files, as Hugging Face writes it, sharded or not.

Only the headers are read when it is opened; `read` fetches a range of one tensor's numbers into a
buffer that is used again. Nothing is mapped into memory, so what a process holds is its buffers.
Names of tensors are whatever the headers say. Needs neither torch nor transformers.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from taskgrove.errors import TaskgroveError, did_you_mean, listed
from taskgrove.merging.files.dtypes import dtype_of, width
from taskgrove.merging.files.headers import Entry, header_of

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
PICKLED = (".bin", ".pt", ".pth", ".ckpt")


@dataclass(frozen=True)
class Checkpoint:
    """A folder (or one file) of named tensors; see `open_checkpoint`."""

    folder: Path
    entries: Mapping[str, Entry]
    metadata: Mapping[str, str] = field(default_factory=dict)
    opened: dict[Path, int] = field(default_factory=dict, repr=False, compare=False)

    @property
    def label(self) -> str:
        """How errors name it."""
        return str(self.folder)

    def read(
        self, name: str, start: int, stop: int, buffer: memoryview
    ) -> npt.NDArray[Any]:  # [stop - start]
        """Numbers start..stop of a tensor in its own dtype; a view of `buffer`."""
        entry = self.entries[name]
        size = width(entry.dtype)
        room = buffer[: (stop - start) * size]
        done = 0
        while done < len(room):
            got = os.preadv(
                self._open(entry.file), [room[done:]], entry.start + start * size + done
            )
            if not got:
                raise TaskgroveError(f'{entry.file} ended within tensor "{name}": it has changed.')
            done += got
        return np.frombuffer(room, dtype_of(entry.dtype))

    def tensor(self, name: str) -> npt.NDArray[Any]:
        """A whole tensor, in its own dtype, in memory of its own."""
        entry = self.entries[name]
        room = memoryview(bytearray(entry.bytes))
        return self.read(name, 0, entry.size, room).reshape(entry.shape)

    def close(self) -> None:
        """Gives its open files back."""
        while self.opened:
            os.close(self.opened.popitem()[1])

    def _open(self, file: Path) -> int:
        if file not in self.opened:
            self.opened[file] = os.open(file, os.O_RDONLY)
        return self.opened[file]


def open_checkpoint(place: Path) -> Checkpoint:
    """Reads the headers of a folder, or of one .safetensors file."""
    files = [place] if place.is_file() else _files(place)
    entries: dict[str, Entry] = {}
    metadata: dict[str, str] = {}
    for file in files:
        found, facts = header_of(file)
        if twice := [name for name in found if name in entries]:
            raise TaskgroveError(
                f"{place}: tensors {listed(twice)} are in {entries[twice[0]].file.name} and again"
                f" in {file.name}; expected each once: remove the stale shard."
            )
        entries |= found
        metadata |= facts
    if (index := place / INDEX).is_file() and len(files) > 1:
        _agree(index, entries)
    if not entries:
        raise TaskgroveError(f"{place} holds no tensors.")
    return Checkpoint(place, entries, metadata)


def config_of(place: Path) -> dict[str, Any]:
    """config.json of a folder; empty where there is none."""
    path = place / "config.json"
    return json_of(path) if path.is_file() else {}


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        near = [str(path) for path in folder.parent.glob("*")] if folder.parent.is_dir() else []
        raise TaskgroveError(
            f"{folder} does not exist: expected a model folder with {SINGLE} or shards and"
            f" {INDEX}.{did_you_mean(str(folder), near)}"
        )
    if (folder / INDEX).is_file():
        return _shards(folder)
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    found = sorted(folder.glob("*.safetensors"))
    if len(found) == 1:
        return found
    if found:
        raise TaskgroveError(
            f"{folder} has {len(found)} safetensors files ({listed(f.name for f in found)}) but no"
            f" {INDEX} that says which belong together; give one file, or add the index."
        )
    pickled = [path.name for path in sorted(folder.iterdir()) if path.suffix in PICKLED]
    raise TaskgroveError(
        f"{folder} has no safetensors file"
        + (
            f", only {listed(pickled)}: give that file itself (tensors are read from it without"
            " running code), or save the model again with safetensors."
            if pickled
            else f"; expected {SINGLE}, or shards and {INDEX}."
        )
    )


def _shards(folder: Path) -> list[Path]:
    weights = json_of(folder / INDEX).get("weight_map")
    if not isinstance(weights, dict) or not all(isinstance(f, str) for f in weights.values()):
        raise TaskgroveError(f'{folder / INDEX} has no "weight_map" of tensor names to files.')
    files = sorted(set(weights.values()))
    if outside := [f for f in files if Path(f).name != f]:
        raise TaskgroveError(
            f"{folder / INDEX} points outside its folder: {listed(outside)}; expected plain file"
            " names."
        )
    if missing := [f for f in files if not (folder / f).is_file()]:
        raise TaskgroveError(
            f"{folder} lacks shards that its index names: {listed(missing)}; download them again."
        )
    return [folder / f for f in files]


def _agree(index: Path, entries: Mapping[str, Entry]) -> None:
    weights: dict[str, str] = json_of(index)["weight_map"]
    wrong = [n for n in weights if n not in entries or entries[n].file.name != weights[n]]
    wrong += [n for n in entries if n not in weights]
    if wrong:
        raise TaskgroveError(
            f"{index} and the shards disagree on {listed(wrong)}; expected the index to name each"
            " tensor's file: download both again."
        )


def json_of(path: Path) -> dict[str, Any]:
    """A JSON object in a file."""
    try:
        facts = json.loads(path.read_text("utf-8"))
    except (ValueError, OSError):
        facts = None
    if not isinstance(facts, dict):
        raise TaskgroveError(f"{path} is not a JSON object; download it again.")
    return facts
