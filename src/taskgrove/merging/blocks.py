"""Blocks: models read side by side, in blocks that fit a core's cache, by a few threads.

Blocks are the same whatever the threads, the shards of the files and the machine: BLOCK numbers (or
as many whole rows) counted from a tensor's start. Results come in order, so sums over blocks have
the same bits each time.

    base [number], deltas [model number] in fp32 (fp64 for fp64): theta_k - theta_0

A thread holds the raw numbers of one block and K + 1 widened ones, used again for each block.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from math import prod
from threading import local
from typing import Any, TypeVar

import numpy as np
import xxhash

from taskgrove.errors import TaskgroveError
from taskgrove.merging.files.dtypes import all_finite, wide, width
from taskgrove.merging.models import Model
from taskgrove.merging.static.static import Array, At

BLOCK = 1 << 18  # numbers
PIECE = 16  # blocks that a thread takes at a time

T = TypeVar("T")


@dataclass(frozen=True)
class Range:
    """A block of a tensor."""

    name: str
    start: int
    stop: int


@dataclass
class Fresh:
    """One block as it was read."""

    base: Array  # [number]
    deltas: Array  # [model number]
    digests: list[bytes]  # of the raw numbers, base first
    beside: dict[str, Array] = field(default_factory=dict)  # [model number]


@dataclass(frozen=True)
class Reading:
    """The models of a merge, and who reads them."""

    base: Model | None
    tuned: Sequence[Model]
    threads: int = 1
    allow_nan: bool = False
    beside: Mapping[str, Sequence[Model]] = field(default_factory=dict)  # see `Static.beside`
    scratch: local = field(default_factory=local, repr=False)

    @property
    def layout(self) -> Model:
        """Whose names, shapes and dtypes the result has."""
        return self.tuned[0] if self.base is None else self.base

    def ranges(self, name: str, rows: bool = False) -> list[Range]:
        """The blocks of a tensor."""
        entry = self.layout.entries[name]
        row = row_size(entry.shape)
        step = max(1, BLOCK // row) * row if rows and row else BLOCK
        return [Range(name, n, min(n + step, entry.size)) for n in range(0, entry.size, step)]

    def fresh(self, block: Range, digests: bool = True) -> Fresh:
        """Reads a block into this thread's arrays."""
        models = [m for m in (self.base, *self.tuned) if m is not None]
        size = block.stop - block.start
        kind = wide(self.layout.entries[block.name].dtype)
        room, values = self._room(len(models), size, kind)
        found = [
            self.one(model, block, row, room, digests)
            for row, model in zip(values, models, strict=True)
        ]
        beside = {k: self._beside(k, block, kind) for k in self.beside if self.has(k, block.name)}
        if self.base is None:
            return Fresh(np.zeros(size, kind), values, found, beside)
        deltas = values[1:]
        deltas -= values[0]
        return Fresh(values[0], deltas, found, beside)

    def has(self, kind: str, name: str) -> bool:
        """Whether each model has numbers of this kind beside a tensor's, one for each."""
        shape = self.layout.entries[name].shape
        found = [model.entries.get(name) for model in self.beside[kind]]
        return all(entry is not None and entry.shape == shape for entry in found)

    def _beside(self, kind: str, block: Range, dtype: np.dtype[Any]) -> Array:
        values = np.empty((len(self.beside[kind]), block.stop - block.start), dtype)
        for row, model in zip(values, self.beside[kind], strict=True):
            self.one(model, block, row)
        return values

    def one(
        self,
        model: Model,
        block: Range,
        into: Array,
        room: memoryview | None = None,
        digest: bool = True,
    ) -> bytes:
        """Reads a block of one model, widened, into `into`; the digest of its raw numbers."""
        own = width(model.entries[block.name].dtype) * (block.stop - block.start)
        room = memoryview(bytearray(own)) if room is None else room[:own]
        raw = model.read(block.name, block.start, block.stop, room)
        if not (self.allow_nan or all_finite(raw)):
            raise TaskgroveError(
                f'tensor "{block.name}" of {model.label} holds NaN or infinity; expected finite'
                " weights (--allow-nan merges all the same)."
            )
        np.copyto(into, raw, casting="unsafe")
        return xxhash.xxh3_128_digest(raw.view(np.uint8).data) if digest else b""

    def _room(self, models: int, size: int, kind: np.dtype[Any]) -> tuple[memoryview, Array]:
        """Room for a block's raw numbers, and [models, size] for the widened ones."""
        mine = self.scratch
        if getattr(mine, "size", 0) < size or mine.kind != kind:
            mine.size, mine.kind = size, kind
            mine.raw, mine.wide = memoryview(bytearray(8 * size)), np.empty(models * size, kind)
        return mine.raw, mine.wide[: models * size].reshape(models, size)

    def each(self, ranges: Sequence[Range], work: Callable[[Range], T]) -> Iterator[T]:
        """`work` of each block, in order; a few pieces are under way at a time."""

        def quiet(block: Range) -> T:
            with np.errstate(over="ignore", invalid="ignore"):  # results are checked
                return work(block)

        if self.threads == 1 or len(ranges) <= PIECE:
            yield from map(quiet, ranges)
            return
        pieces = [ranges[n : n + PIECE] for n in range(0, len(ranges), PIECE)]
        with ThreadPoolExecutor(self.threads) as pool:
            waiting: deque[Future[list[T]]] = deque()
            try:
                for piece in pieces:
                    waiting.append(pool.submit(lambda piece=piece: [quiet(r) for r in piece]))
                    if len(waiting) > 2 * self.threads:
                        yield from waiting.popleft().result()
                while waiting:
                    yield from waiting.popleft().result()
            finally:
                pool.shutdown(wait=True, cancel_futures=True)


@dataclass(frozen=True)
class Seeing:
    """`static.Blocks` over tensors of a reading."""

    reading: Reading
    names: Sequence[str]
    rows: bool = False

    @property
    def models(self) -> int:
        return len(self.reading.tuned)

    @property
    def size(self) -> int:
        return sum(self.reading.layout.entries[name].size for name in self.names)

    def map(self, look: Callable[[Array, Array, At], T], every: int = 1) -> Iterator[T]:
        """See `static.Blocks`."""
        ranges = [r for name in self.names for r in self.reading.ranges(name, self.rows)]

        def seen(block: Range) -> T:
            fresh = self.reading.fresh(block, digests=False)
            shape = self.reading.layout.entries[block.name].shape
            at = At(block.name, shape, block.start, beside=fresh.beside)
            return look(*shaped(fresh, shape, self.rows), at)

        return self.reading.each(ranges[::every], seen)


def shaped(fresh: Fresh, shape: tuple[int, ...], rows: bool) -> tuple[Array, Array]:
    """A block as [number], [model number], or as rows [row dim], [model row dim]."""
    if not rows:
        return fresh.base, fresh.deltas
    dim = row_size(shape) or 1
    return fresh.base.reshape(-1, dim), fresh.deltas.reshape(len(fresh.deltas), -1, dim)


def row_size(shape: tuple[int, ...]) -> int:
    """Numbers in a row; a vector is one row.

    >>> row_size((3, 4, 5)), row_size((7,)), row_size(())
    (20, 7, 1)
    """
    return prod(shape[1:]) if len(shape) > 1 else prod(shape)
