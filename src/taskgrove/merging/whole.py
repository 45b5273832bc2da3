"""Whole matrices, for methods that cannot work on blocks; models are read one at a time."""

from collections.abc import Callable, Iterable, Sequence
from math import prod
from typing import TYPE_CHECKING

import numpy as np
import xxhash

from taskgrove.merging.blocks import BLOCK, Range, Reading
from taskgrove.merging.files.dtypes import wide
from taskgrove.merging.models import Model
from taskgrove.merging.static.static import Array, At

if TYPE_CHECKING:
    from taskgrove.merging.plan import Plan


class Deltas(Sequence[Array]):
    """tau_k [row column], read from the model when it is asked for."""

    def __init__(self, reading: Reading, name: str) -> None:
        self.reading, self.name = reading, name
        self.digests: dict[int, str] = {}
        self.base = self._numbers(reading.base, 0) if reading.base is not None else None

    def __len__(self) -> int:
        return len(self.reading.tuned)

    def __getitem__(self, k: int) -> Array:  # pyright: ignore[reportIncompatibleMethodOverride]
        if not 0 <= k < len(self):
            raise IndexError(k)
        theta = self._numbers(self.reading.tuned[k], k + 1)
        return theta if self.base is None else theta - self.base

    def _numbers(self, model: Model, place: int) -> Array:
        entry = self.reading.layout.entries[self.name]
        result = np.empty(entry.size, wide(entry.dtype))
        total = xxhash.xxh3_128()
        for block in self.reading.ranges(self.name):
            one = self.reading.one(model, block, result[block.start : block.stop])
            total.update(one)
        self.digests[place] = total.hexdigest()
        return result.reshape(entry.shape)


class Beside(Sequence[Array]):
    """What lies beside each model for a tensor, in its own shape, read when it is asked for."""

    def __init__(self, reading: Reading, kind: str, name: str) -> None:
        self.reading, self.models, self.name = reading, reading.beside[kind], name

    def __len__(self) -> int:
        return len(self.models)

    def __getitem__(self, k: int) -> Array:  # pyright: ignore[reportIncompatibleMethodOverride]
        entry = self.models[k].entries[self.name]
        result = np.empty(entry.size, wide(entry.dtype))
        for start in range(0, entry.size, BLOCK):
            block = Range(self.name, start, min(start + BLOCK, entry.size))
            self.reading.one(self.models[k], block, result[block.start : block.stop])
        return result.reshape(entry.shape)


def room(shapes: Iterable[tuple[int, ...]], reading: Reading) -> int:
    """Bytes of the largest matrix, what lies beside it, and what is computed with them, about."""
    models = [model for models in reading.beside.values() for model in models]
    beside = max((e.size for model in models for e in model.entries.values()), default=0)
    numbers = max(map(prod, shapes), default=0)
    return 4 * (6 if beside else 12) * numbers + 12 * beside


def matrix(plan: "Plan", name: str, write: Callable[[int, Array], None]) -> list[str]:
    """Merges one matrix; the digests of the models, base first."""
    from taskgrove.merging.stream import rounded

    deltas = Deltas(plan.reading, name)
    shape = plan.reading.layout.entries[name].shape
    base = np.zeros(shape, np.float32) if deltas.base is None else deltas.base
    beside = {kind: Beside(plan.reading, kind, name) for kind in plan.reading.beside}
    at = At(name, shape, 0, beside=beside)
    merged = plan.static.merge(base, deltas, plan.parameters[name], at)
    write(0, rounded(plan, name, merged.reshape(-1)))
    return [deltas.digests[k] for k in sorted(deltas.digests)]
