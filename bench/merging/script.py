"""The straight streaming script: the floor that a tool should come near to.

    python bench/merging/script.py METHOD OUT BASE TUNED1 [TUNED2 ...]

Block by block, in fp32, rounded once. A shard of the output has the header of the base's shard, so
its tensors go to the file in order; the tuned models must be sharded alike. No checks at all.
"""

import json
import math
import shutil
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

BLOCK = 500_000  # numbers of a tensor held at a time


def linear(first: Tensor, others: Sequence[Tensor]) -> Tensor:
    """The mean of all models given; there is no base."""
    total = first.float()
    for model in others:
        total += model
    return total / (1 + len(others))


def task_arithmetic(base: Tensor, tuned: Sequence[Tensor]) -> Tensor:
    start = base.float()
    total = tuned[0] - start
    for model in tuned[1:]:
        total += model - start
    return start + 0.3 * total


def ties(base: Tensor, tuned: Sequence[Tensor], limits: Sequence[float]) -> Tensor:
    """Trimmed to 20 % of each tensor."""
    start = base.float()
    tau = torch.stack([model - start for model in tuned])
    tau *= tau.abs() >= torch.tensor(limits).view(-1, *[1] * start.ndim)
    tau *= tau.sign() == tau.sum(dim=0).sign()
    return start + tau.sum(dim=0) / (tau != 0).sum(dim=0).clamp(min=1)


def limit(base: Tensor, tuned: Tensor) -> float:
    """The smallest change that is kept."""
    size = tuned.float().sub_(base).abs_().flatten().numpy()
    drop = len(size) - max(1, round(0.2 * len(size)))
    size.partition(drop)
    return float(size[drop])


def dare(base: Tensor, tuned: Sequence[Tensor]) -> Tensor:
    """A random fifth of each change, five times as large, scaled by 0.3."""
    start = base.float()
    total = torch.zeros_like(start)
    for model in tuned:
        total += (model - start) * (torch.rand_like(start) < 0.2)
    return start + 0.3 / 0.2 * total


def slerp(base: Tensor, tuned: Sequence[Tensor], shares: tuple[float, float]) -> Tensor:
    """Half way between the base and one model, along the sphere."""
    return shares[0] * base.float() + shares[1] * tuned[0]


def arc(base: Tensor, tuned: Tensor) -> tuple[float, float]:
    """How much of either."""
    a, b = base.flatten(), tuned.flatten()
    cosine = inner(a, b) / (inner(a, a) * inner(b, b)) ** 0.5
    if abs(cosine) > 0.9995:
        return 0.5, 0.5
    angle = math.acos(cosine)
    share = math.sin(angle / 2) / math.sin(angle)
    return share, share


def inner(a: Tensor, b: Tensor) -> float:
    pairs = zip(a.split(BLOCK), b.split(BLOCK), strict=True)
    return sum(float(x.float() @ y.float()) for x, y in pairs)


METHODS = {
    "linear": linear,
    "task_arithmetic": task_arithmetic,
    "ties": ties,
    "dare": dare,
    "slerp": slerp,
}


def numbers(file: BinaryIO, start: int, count: int) -> Tensor:
    """bfloat16 from a byte of the file on."""
    file.seek(start)
    return torch.from_numpy(np.fromfile(file, np.uint16, count)).view(torch.bfloat16)


def first_pass(method: str, files: Sequence[BinaryIO], start: int, size: int) -> tuple:
    """What must be known of whole tensors before their blocks can be merged."""
    if method not in ("ties", "slerp"):
        return ()
    base, *tuned = (numbers(file, start, size) for file in files)
    return ([limit(base, model) for model in tuned] if method == "ties" else arc(base, tuned[0]),)


def merge_shard(method: str, files: Sequence[BinaryIO], target: BinaryIO) -> None:
    length = files[0].read(8)
    header = files[0].read(int.from_bytes(length, "little"))
    target.write(length + header)
    entries = json.loads(header)
    entries.pop("__metadata__", None)
    for first, last in sorted(entry["data_offsets"] for entry in entries.values()):
        begin, size = 8 + len(header) + first, (last - first) // 2
        known = first_pass(method, files, begin, size)
        for done in range(0, size, BLOCK):
            count = min(BLOCK, size - done)
            base, *tuned = (numbers(file, begin + 2 * done, count) for file in files)
            merged = METHODS[method](base, tuned, *known).bfloat16()
            target.write(merged.view(torch.uint8).numpy().data)


def main() -> None:
    method, out, folders = sys.argv[1], Path(sys.argv[2]), [Path(p) for p in sys.argv[3:]]
    out.mkdir()
    for path in folders[0].iterdir():
        if path.suffix != ".safetensors":
            shutil.copy(path, out / path.name)
            continue
        with ExitStack() as stack:
            files = [stack.enter_context((f / path.name).open("rb", buffering=0)) for f in folders]
            merge_shard(method, files, stack.enter_context((out / path.name).open("wb")))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
