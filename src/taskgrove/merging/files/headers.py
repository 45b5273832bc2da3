"""Headers of safetensors files: where each tensor's numbers are, checked before any are read."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from taskgrove.errors import TaskgroveError, listed
from taskgrove.merging.files.dtypes import DTYPES, width

HEADER_MOST = 100_000_000  # bytes, safetensors' own limit


@dataclass(frozen=True)
class Entry:
    """Where a tensor's numbers are."""

    dtype: str  # safetensors' name, such as "BF16"
    shape: tuple[int, ...]
    file: Path
    start: int  # of its first byte in the file

    @property
    def size(self) -> int:
        """How many numbers."""
        return prod(self.shape)

    @property
    def bytes(self) -> int:
        """On disk."""
        return self.size * width(self.dtype)


def header_of(file: Path) -> tuple[dict[str, Entry], dict[str, str]]:
    """Its tensors by name, and its metadata."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or not 2 <= length <= min(HEADER_MOST, size - 8):
            raise TaskgroveError(
                f"{file} is not a safetensors file, or was cut short"
                + (" (it looks like a download that never came)." if size < 1000 else ".")
            )
        try:
            header = json.loads(stream.read(length))
            metadata = header.pop("__metadata__", {})
            found = {name: _entry(file, 8 + length, name, each) for name, each in header.items()}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise TaskgroveError(f"the header of {file} is damaged; download it again.") from None
    end = 8 + length
    for name, entry in sorted(found.items(), key=lambda item: item[1].start):
        if entry.start != end:
            raise TaskgroveError(f'{file}: tensor "{name}" does not begin where the last one ends.')
        end += entry.bytes
    if end != size:
        raise TaskgroveError(
            f"{file} has {size:,} bytes, its header speaks of {end:,}: it was cut short or has"
            " changed; download it again."
        )
    return found, metadata


def _entry(file: Path, data: int, name: str, facts: Mapping[str, Any]) -> Entry:
    dtype, shape, (start, stop) = facts["dtype"], tuple(facts["shape"]), facts["data_offsets"]
    if dtype not in DTYPES:
        raise TaskgroveError(
            f'{file}: tensor "{name}" is of type {dtype}; expected one of {listed(DTYPES, 20)}.'
            " Quantised models cannot be merged: use the original weights."
        )
    if not all(type(n) is int and n >= 0 for n in (*shape, start, stop)):
        raise ValueError
    entry = Entry(dtype, shape, file, data + start)
    if entry.bytes != stop - start:
        raise TaskgroveError(
            f'{file}: tensor "{name}" has {stop - start:,} bytes; {dtype} {shape} needs'
            f" {entry.bytes:,}."
        )
    return entry
