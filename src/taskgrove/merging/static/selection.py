"""Selection: the exact k-th largest number of something computed from blocks, out of core.

A sample tells between which two numbers the k-th largest must be; one pass counts what is above
and keeps what is in between: the numbers, or where they are many a histogram of float bits, exact
where a bin is one float. Where the sample was misleading, or a bin holds many floats, the passes go
on with what was learned.

    code(x) = the bits of |x| as an integer: it orders floats of one sign as their values do
    k-th largest: the code c with  #{code > c} < k <= #{code >= c}

Cost: a pass over the data as a rule, two where very many numbers are nearly alike; memory is SAMPLE
numbers and BINS counters, whatever the rows.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from taskgrove.merging.static.static import Array, At, Blocks
from taskgrove.shapes import Float

SAMPLE = 1 << 21  # numbers of all rows that are looked at first
SKIP = 4  # blocks, one is in the sample, or fewer where there are very many
EVERY = 31  # of a block, one is in the sample; odd, so as not to see the same columns of a matrix
MARGIN = 3.0  # standard errors of a share in the sample, to each side of its answer
BINS = 1 << 22  # counters, of all rows
HELD = 1 << 19  # numbers of a row that are kept as they are, or wait to be counted
PARTS = 1000  # arrays that they are in
FEW = 12  # bits of a small histogram's places

Of = Callable[[Float[Array, " number"], Float[Array, "model number"]], Float[Array, "row number"]]


def magnitude(
    base: Float[Array, " number"],  # noqa: ARG001
    deltas: Float[Array, "model number"],
) -> Float[Array, "model number"]:
    """|tau|."""
    return np.abs(deltas)


def largest(blocks: Blocks, ranks: Sequence[int], of: Of = magnitude) -> Float[Array, " rank"]:
    """The ranks[r]-th largest number of row r of `of` over all blocks; ranks count from 1.

    More ranks than rows go round: with two rows, ranks 0 and 2 are of the first. `of` must be
    neither negative nor -0.0.
    """
    if blocks.size * len(ranks) < SAMPLE:
        rows = [np.concatenate(row) for row in zip(*_seen(blocks, of, 1, 1), strict=True)]
        codes = [kth(_codes(rows[r % len(rows)]), k) for r, k in enumerate(ranks) if rows]
        return np.array(codes, _codes(rows[0]).dtype).view(rows[0].dtype) if rows else np.array([])
    found = _narrowed(blocks, of, _brackets(blocks, ranks, of))  # also where a sample is one value
    while any(each.width > 1 for each in found):
        found = _narrowed(blocks, of, found)
    code = np.array([each.low for each in found], found[0].kind)
    return code.view(found[0].kind.str.replace("u", "f"))


@dataclass(frozen=True)
class Bracket:
    """Where the k-th largest code of a row is: at low or above, below high."""

    kind: np.dtype[np.unsignedinteger]
    rank: int
    low: int
    high: int

    @property
    def width(self) -> int:
        return self.high - self.low

    def shift(self, bins: int) -> int:
        """Codes that share one of so many bins, as a power of 2."""
        return ((self.width - 1) // bins).bit_length()


def _seen(blocks: Blocks, of: Of, step: int, every: int) -> Iterator[Array]:
    """[row number] of each step-th block, every so many numbers."""

    def copied(base: Array, deltas: Array, at: At) -> Array:  # noqa: ARG001
        return of(base, deltas)[:, ::every].copy()

    return blocks.map(copied, every=step)


def _codes(values: Array) -> Array:
    return values.view(np.dtype(f"u{values.itemsize}"))


def _brackets(blocks: Blocks, ranks: Sequence[int], of: Of) -> list[Bracket]:
    """From the sample."""
    step = max(SKIP, blocks.size * len(ranks) // (EVERY * SAMPLE))
    seen = [_codes(part) for part in _seen(blocks, of, step, EVERY)]
    return [
        _bracket([part[r % len(part)] for part in seen], k, blocks.size)
        for r, k in enumerate(ranks)
    ]


def _bracket(parts: Sequence[Array], rank: int, size: int) -> Bracket:
    """MARGIN standard errors to each side of where the rank falls in the sample.

    How the share above the sample's answer changes from block to block tells the error; it is at
    least that of independent draws.
    """
    x = np.sort(np.concatenate(parts))
    most = 1 << (8 * x.itemsize - 1)  # above every code of a number that is not negative
    place = len(x) * (1 - rank / size)
    middle = x[min(len(x) - 1, int(place))]
    shares = np.array([np.count_nonzero(part >= middle) / len(part) for part in parts])
    change = np.diff(shares, prepend=shares[-1:])
    error = max((change**2).mean() / 2 / len(parts), rank / size * (1 - rank / size) / len(x))
    margin = MARGIN * (len(x) * float(error) ** 0.5 + 1)
    low, high = int(place - margin), int(place + margin) + 1
    return Bracket(
        x.dtype, rank, int(x[low]) if low > 0 else 0, int(x[high]) + 1 if high < len(x) else most
    )


def _narrowed(blocks: Blocks, of: Of, found: list[Bracket]) -> list[Bracket]:
    """One pass."""

    def look(base: Array, deltas: Array, at: At) -> tuple[list[int], list[Array]]:  # noqa: ARG001
        above, inside = [], []
        rows = _codes(of(base, deltas))
        for r, each in enumerate(found):
            code = rows[r % len(rows)]
            within = code < each.high
            above.append(len(code) - int(np.count_nonzero(within)))
            within &= code >= each.low
            inside.append(code[np.flatnonzero(within)] - each.low)
        return above, inside

    above = np.zeros(len(found), np.int64)
    bins = max(2, BINS // len(found))
    tallies = [Tally(each.shift(bins)) for each in found]
    for more, inside in blocks.map(look):
        above += more
        for tally, codes in zip(tallies, inside, strict=True):
            tally.add(codes)
    return [_next(*each) for each in zip(found, above.tolist(), tallies, strict=True)]


@dataclass
class Tally:
    """Codes inside a bracket, counted from its low: themselves while few, else a histogram."""

    shift: int
    held: list[Array] = field(default_factory=list)
    size: int = 0  # codes that are held
    counts: Array | None = None

    def add(self, codes: Array) -> None:
        self.held.append(codes)
        self.size += len(codes)
        if self.size > HELD:
            self.count()
        elif len(self.held) > PARTS:
            self.held = [np.concatenate(self.held)]

    def count(self) -> None:
        """Moves what is held to the histogram."""
        if not self.size:
            return
        codes = np.concatenate(self.held).astype(np.intp) >> self.shift
        before = np.zeros(0, np.int64) if self.counts is None else self.counts
        self.counts = np.bincount(codes, minlength=len(before))
        self.counts[: len(before)] += before
        self.held, self.size = [], 0


def _next(each: Bracket, above: int, tally: Tally) -> Bracket:
    """What holds the rank: a code or a bin inside, or all that is left on the side where it is."""
    most = 1 << (8 * each.kind.itemsize - 1)
    k = each.rank - above
    if k <= 0:
        return Bracket(each.kind, each.rank, each.high, most)
    if tally.counts is None:
        codes = np.concatenate(tally.held)
        if len(codes) < k:
            return Bracket(each.kind, each.rank, 0, each.low)
        low = each.low + kth(codes, k)
        return Bracket(each.kind, each.rank, low, low + 1)
    tally.count()
    upward = np.cumsum(tally.counts[::-1])
    if upward[-1] < k:
        return Bracket(each.kind, each.rank, 0, each.low)
    bin_ = len(upward) - 1 - int(np.searchsorted(upward, k))
    low = each.low + (bin_ << tally.shift)
    return Bracket(each.kind, each.rank, low, min(each.high, low + (1 << tally.shift)))


def kth(codes: Array, k: int) -> int:
    """The k-th largest; a histogram first, as partitions are slow where many codes are alike."""
    bins = (codes >> max(0, int(codes.max()).bit_length() - FEW)).astype(np.intp)
    upward = np.cumsum(np.bincount(bins)[::-1])
    place = int(np.searchsorted(upward, k))
    return int(np.sort(codes[bins == len(upward) - 1 - place])[upward[place] - k])
