"""Task vectors of models on disk: read in blocks, in their own number format, whenever asked for.

    tau_k^l = theta_k^l - theta_0^l       a block: [model element] in fp32, one buffer used again

What is held is one block of K models (at most HELD numbers, so blocks are shorter for more models),
the raw numbers of one model's, and as many numbers again of tensors so small that asking for them
costs more than reading them; nothing is mapped into memory. A step of a learned merge reads
all models twice, once for the weights and once for the inner products; `bytes_read` counts. A model
that fits in memory beside the others is quicker as `MemoryVectors`.
Difference from the papers: none in the arithmetic; fp64 models are computed in fp32.
"""

from collections.abc import Mapping, Sequence
from math import prod

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from taskgrove.errors import TaskgroveError
from taskgrove.merging.files.dtypes import FLOATS, all_finite
from taskgrove.merging.fit import whole as all_numbers
from taskgrove.merging.learned.vectors import TensorBlocks
from taskgrove.merging.models import Model

HELD = 2**20  # numbers of all models' blocks together
LEAST = 2**12  # of one model's block
SMALL = 2**13  # elements of a tensor that is read once and kept, while there is room
TORCH = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
RAW = {8: np.int64, 4: np.int32, 2: np.int16, 1: np.uint8}  # integers as wide, for torch


class DiskVectors:
    """Task vectors of open models (see open_model) with the same names and shapes."""

    def __init__(
        self, base: Model, tuned: Sequence[Model], names: Sequence[str] | None = None
    ) -> None:
        if not tuned:
            raise TaskgroveError("got no tuned model to merge; expected at least one.")
        floats = [name for name, entry in base.entries.items() if entry.dtype in FLOATS]
        self.names = tuple(floats if names is None else names)
        self.models = len(tuned)
        self.device = torch.device("cpu")
        self.bytes_read = 0
        self._base, self._tuned = base, tuple(tuned)
        self._block = max(LEAST, 1 << (HELD // self.models).bit_length() - 1)
        self._tau = torch.empty(self.models, self._block)
        self._theta_0 = torch.empty(self._block)
        self._raw = memoryview(bytearray(8 * self._block))
        self._finite: set[tuple[str, str]] = set()  # (model, tensor) seen to be so
        self._kept: dict[str, Tensor] = {}  # tau [model element] of small tensors, HELD in all

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._base.entries[name].shape)

    def base(self, name: str) -> Float[Tensor, "..."]:
        theta_0 = torch.empty(self.shape(name))
        flat = theta_0.view(-1)
        for start in range(0, len(flat), self._block):
            self._read(self._base, name, start, flat[start : start + self._block])
        self._finite.add((self._base.label, name))
        return theta_0

    def blocks(self, name: str) -> TensorBlocks:
        if name in self._kept:
            yield 0, self._kept[name]
            return
        size = prod(self.shape(name))
        for start in range(0, size, self._block):
            count = min(self._block, size - start)
            theta_0, tau = self._theta_0[:count], self._tau[:, :count]
            self._read(self._base, name, start, theta_0)
            for model, mine in zip(self._tuned, tau, strict=True):
                self._read(model, name, start, mine)
                mine -= theta_0
            if size == count <= SMALL and self._room(size):
                self._kept[name] = tau.clone()
            yield start, tau
        self._finite |= {(model.label, name) for model in (self._base, *self._tuned)}

    def only(self, models: Sequence[int]) -> "DiskVectors":
        return DiskVectors(self._base, [self._tuned[k] for k in models], self.names)

    def whole(self, merged: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """In fp32, integer tensors as they are; a result is rounded when it is written."""
        whole = {}
        for name, entry in self._base.entries.items():
            if name in merged:
                whole[name] = merged[name]
            elif entry.dtype in FLOATS:
                whole[name] = self.base(name)
            else:
                numbers = all_numbers(self._base, name).reshape(entry.shape)
                whole[name] = torch.from_numpy(numbers)
        return whole

    def _room(self, size: int) -> bool:
        """For a small tensor of all models, beside those that are kept."""
        return sum(tau.numel() for tau in self._kept.values()) + self.models * size <= HELD

    def _read(self, model: Model, name: str, start: int, out: Float[Tensor, " element"]) -> None:
        """Widens elements start.. of a model's tensor into `out`."""
        kind, count = model.entries[name].dtype, len(out)
        room = out.numpy().data.cast("B") if kind == "F32" else self._raw
        raw = model.read(name, start, start + count, room)
        self.bytes_read += raw.nbytes
        if (model.label, name) not in self._finite and not all_finite(raw):
            raise TaskgroveError(
                f'tensor "{name}" of {model.label} holds NaN or infinity; expected finite weights.'
            )
        if kind != "F32" or raw.ctypes.data != out.data_ptr():
            out.copy_(torch.from_numpy(raw.view(RAW[raw.itemsize])).view(TORCH[kind]))
