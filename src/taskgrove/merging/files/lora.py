"""LoRA: an adapter folder as PEFT saves it, read as the model that it makes of its base.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022, arXiv 2106.09685;
Kalajdzievski, rsLoRA, arXiv 2312.03732; Liu et al., "DoRA", ICML 2024, arXiv 2402.09353.
Nothing is merged beforehand: a block of a weight is the base's block plus the rows of the product
that it needs, so reading an adapter takes as much memory as its two factors of one weight.

    theta = theta_0 + s B A                               s = alpha / r, rsLoRA: alpha / sqrt(r)
    DoRA: theta = m * (theta_0 + s B A) / n               n: the norm of each output's weights

    theta_0: [out in]; B: [out rank]; A: [rank in]; m, n: [out]; convolutions with all but `out`
    flattened; embeddings and fan_in_fan_out layers are [in out], with (B A)^T

Differs from PEFT's `merge_and_unload`: the product stays in fp32 (PEFT rounds it to the adapter's
bf16 first). Saved modules (`modules_to_save`), biases and LoRA's own biases are merged as well.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from threading import Lock
from typing import Any

import numpy as np

from taskgrove.errors import TaskgroveError
from taskgrove.merging.blocks import BLOCK, row_size
from taskgrove.merging.files.dtypes import wide, width
from taskgrove.merging.models import Model, Tensor
from taskgrove.merging.static.static import Array
from taskgrove.shapes import Float

KEPT = 4  # weights whose factors are kept; threads may be at different ones


@dataclass(frozen=True)
class Facts:
    """A tensor that no file holds as it is."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """How many numbers."""
        return prod(self.shape)

    @property
    def bytes(self) -> int:
        """Of its numbers."""
        return self.size * width(self.dtype)


@dataclass(frozen=True)
class Change:
    """Where an adapter's file holds what changes one weight."""

    A: str
    B: str
    scale: float
    transposed: bool  # the weight is [in out]
    m: str | None = None


@dataclass(frozen=True)
class Factors:
    """A change, ready to be used: scale L R is added to the weight, flattened to [row column]."""

    L: Float[Array, "row rank"]
    R: Float[Array, "rank column"]
    scale: float
    gain: Float[Array, "#row #column"] | None  # DoRA's m / n


@dataclass(frozen=True)
class Lora:
    """A base and an adapter on it as one model; see `open_lora` of merging/files/adapter."""

    label: str
    base: Model
    adapter: Model
    entries: Mapping[str, Tensor]
    changes: Mapping[str, Change]
    saved: Mapping[str, str]  # tensor: the adapter's own tensor in its place
    shifts: Mapping[str, tuple[str, float]]  # bias: (LoRA's own bias, scale)
    notes: Sequence[str] = ()
    held: OrderedDict[str, Factors] = field(default_factory=OrderedDict, repr=False, compare=False)
    lock: Any = field(default_factory=Lock, repr=False, compare=False)

    def read(self, name: str, start: int, stop: int, buffer: memoryview) -> Array:
        """The base's numbers where nothing changes them, else fp32 (fp64 for fp64)."""
        theta = self._start(name, start, stop, buffer)
        if name in self.shifts:
            bias, scale = self.shifts[name]
            theta = _widened(theta)
            theta += scale * _numbers(self.adapter, bias, start, stop)
        if name in self.changes:
            theta = self._changed(name, start, stop, theta)
        return theta

    def _start(self, name: str, start: int, stop: int, buffer: memoryview) -> Array:
        if name in self.saved:
            return _numbers(self.adapter, self.saved[name], start, stop)
        return self.base.read(name, start, stop, buffer)

    def _changed(self, name: str, start: int, stop: int, theta: Array) -> Array:
        factors = self._factors(name)
        theta = _widened(theta)
        theta += factors.scale * within(factors.L, factors.R, start, stop)
        if factors.gain is not None:
            columns = row_size(self.entries[name].shape)
            n = np.arange(start, stop)
            rows, across = factors.gain.shape[0] > 1, factors.gain.shape[1] > 1
            theta *= factors.gain[n // columns if rows else 0, n % columns if across else 0]
        return theta

    def _factors(self, name: str) -> Factors:
        with self.lock:
            if name not in self.held:
                self.held[name] = self._read_factors(name)
                if len(self.held) > KEPT:
                    self.held.popitem(last=False)
            return self.held[name]

    def _read_factors(self, name: str) -> Factors:
        change, kind = self.changes[name], wide(self.entries[name].dtype)
        A, B = (_matrix(self.adapter, part).astype(kind) for part in (change.A, change.B))
        A = A.reshape(len(A), -1)  # [rank in]
        B = B.reshape(len(B), -1)  # [out rank]
        L, R = (A.T.copy(), B.T.copy()) if change.transposed else (B, A)
        plain = Factors(L, R, change.scale, None)
        if change.m is None:
            return plain
        m = _matrix(self.adapter, change.m).astype(np.float64).reshape(-1)
        gain = (m / self._norms(name, plain, change.transposed)).astype(kind)
        return Factors(L, R, change.scale, gain[None] if change.transposed else gain[:, None])

    def _norms(self, name: str, plain: Factors, transposed: bool) -> Float[Array, " out"]:
        """n: of each row of theta_0 + s B A, or of each column where the weight is [in out]."""
        rows, columns = len(plain.L), plain.R.shape[1]
        step = max(1, BLOCK // columns)
        sums = np.zeros(columns if transposed else rows)
        room = memoryview(bytearray(step * columns * 8))
        for first in range(0, rows, step):
            last = min(first + step, rows)
            theta = _widened(self._start(name, first * columns, last * columns, room))
            theta = theta.reshape(-1, columns) + plain.scale * (plain.L[first:last] @ plain.R)
            squares = theta.astype(np.float64) ** 2
            if transposed:
                sums += squares.sum(0)
            else:
                sums[first:last] = squares.sum(1)
        if not sums.all():
            raise TaskgroveError(
                f'{self.label}: DoRA cannot scale an output of "{name}" that has only zero weights.'
            )
        return np.sqrt(sums)


def within(
    L: Float[Array, "row rank"], R: Float[Array, "rank column"], start: int, stop: int
) -> Float[Array, " number"]:
    """Numbers start..stop of the product L R, flattened; only the rows that hold them are made."""
    columns = R.shape[1]
    first, last = start // columns, -(-stop // columns)
    return (L[first:last] @ R).reshape(-1)[start - first * columns : stop - first * columns]


def _widened(values: Array) -> Array:
    """Numbers of one's own in which merging computes."""
    return values.astype(np.float64 if values.dtype == np.float64 else np.float32)


def _numbers(model: Model, name: str, start: int, stop: int) -> Array:
    room = memoryview(bytearray((stop - start) * width(model.entries[name].dtype)))
    return model.read(name, start, stop, room)


def _matrix(model: Model, name: str) -> Array:
    entry = model.entries[name]
    return _numbers(model, name, 0, entry.size).reshape(entry.shape)
