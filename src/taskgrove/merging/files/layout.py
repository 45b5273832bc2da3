"""Layout: which tensors go into which safetensors file, and where; files as Hugging Face names."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

from taskgrove.merging.files.dtypes import width

SHARD = 5_000_000_000  # bytes, as transformers writes them


@dataclass(frozen=True)
class Shard:
    """A file: its header, and where each tensor's first byte is."""

    file: str
    header: bytes
    starts: Mapping[str, int]
    size: int  # of the file


def layout(
    tensors: Mapping[str, tuple[str, tuple[int, ...]]],  # name -> (dtype, shape)
    most: int = SHARD,
    metadata: Mapping[str, str] | None = None,
) -> list[Shard]:
    """Shards of at most `most` bytes, a larger tensor alone in one; tensors keep their order."""
    groups: list[list[str]] = [[]]
    full = 0
    for name, (dtype, shape) in tensors.items():
        size = prod(shape) * width(dtype)
        if groups[-1] and full + size > most:
            groups.append([])
            full = 0
        groups[-1].append(name)
        full += size
    count = len(groups)
    files = [f"model-{n:05}-of-{count:05}.safetensors" for n in range(1, count + 1)]
    files = files if count > 1 else ["model.safetensors"]
    return [
        _shard(file, names, tensors, {"format": "pt", **(metadata or {})})
        for file, names in zip(files, groups, strict=True)
    ]


def index(shards: Sequence[Shard], total: int) -> str:
    """The text of model.safetensors.index.json."""
    where = {name: shard.file for shard in shards for name in shard.starts}
    facts = {"metadata": {"total_size": total}, "weight_map": dict(sorted(where.items()))}
    return json.dumps(facts, indent=2) + "\n"


def _shard(
    file: str,
    names: Sequence[str],
    tensors: Mapping[str, tuple[str, tuple[int, ...]]],
    metadata: Mapping[str, str],
) -> Shard:
    """Wider numbers first, as the library writes them, so that all are aligned."""
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    starts: dict[str, int] = {}
    end = 0
    for name in sorted(names, key=lambda name: -width(tensors[name][0])):
        dtype, shape = tensors[name]
        size = prod(shape) * width(dtype)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [end, end + size]}
        starts[name] = end
        end += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    head = len(text).to_bytes(8, "little") + text
    return Shard(file, head, {n: len(head) + at for n, at in starts.items()}, len(head) + end)
