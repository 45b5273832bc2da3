"""The hashing trick: words, word pairs and character windows of a text to bucket numbers.

"Feature Hashing for Large Scale Multitask Learning", Kilian Weinberger, Anirban Dasgupta, Josh
Attenberg, John Langford, Alex Smola, 2009, https://arxiv.org/abs/0902.2206, without random signs.
A string of bytes s has the polynomial hash  h(s) = sum_i s_i P^i  mod 2^64, a pair of words
h(v) + Q h(w); the finaliser of splitmix64 mixes h, and its remainder by `buckets` is the bucket.
All texts of a batch are hashed together, as one array of bytes.
"""

import re

import numpy as np
from jaxtyping import Int, UInt64

P, Q = np.uint64(0x100000001B3), np.uint64(0x9E3779B97F4A7C15)
SPACE, NEWLINE = 32, 10
WORD = re.compile(r"\w+")


def hashed(
    texts: list[str], buckets: int, longest: int, characters: int
) -> tuple[Int[np.ndarray, "batch token"], Int[np.ndarray, "batch"]]:
    """Buckets of each text, padded with 0, and how many each has.

    A text gives its lower-cased words (the first `longest` of them), the pairs of neighbours, and
    every window of `characters` bytes of " the words between spaces " (0: none).
    """
    words = [WORD.findall(text.lower())[:longest] for text in texts]
    line = "\n".join(f" {' '.join(row)} " for row in words)
    b = np.frombuffer(line.encode(errors="replace"), dtype=np.uint8).astype(np.uint64)  # [byte]
    row = np.cumsum(b == NEWLINE)  # [byte], the text of each byte
    lists = [*_words(b, row), _windows(b, row, characters)]
    counts = np.stack([np.bincount(r, minlength=len(texts)) for _, r in lists])  # [list batch]
    ids = np.zeros((len(texts), max(1, counts.sum(0).max(initial=0))), dtype=np.int64)
    start = np.cumsum(counts, 0) - counts  # [list batch], where each list begins in its row
    for (h, r), count, first in zip(lists, counts, start, strict=True):
        place = np.arange(len(r)) - np.repeat(np.cumsum(count) - count, count)
        ids[r, first[r] + place] = _mixed(h) % np.uint64(buckets)
    return ids, counts.sum(0)


Hashes = tuple[UInt64[np.ndarray, "n"], Int[np.ndarray, "n"]]
"""Hashes and the text that each comes from, in order."""


def _words(b: UInt64[np.ndarray, "byte"], row: Int[np.ndarray, "byte"]) -> list[Hashes]:
    """Words and pairs of neighbours."""
    gap = (b == SPACE) | (b == NEWLINE)
    starts = np.flatnonzero(gap[:-1] & ~gap[1:]) + 1  # [word]
    if not len(starts):
        return []
    at = np.arange(len(b)) - np.repeat(np.r_[0, starts], np.diff(np.r_[0, starts, len(b)]))
    powers = np.cumprod(np.full(at.max() + 1, P), dtype=np.uint64)
    h = np.add.reduceat(np.where(gap, 0, b) * powers[at], starts)  # [word]
    r = row[starts]
    same = r[:-1] == r[1:]
    return [(h, r), ((h[:-1] + Q * h[1:])[same], r[:-1][same])]


def _windows(b: UInt64[np.ndarray, "byte"], row: Int[np.ndarray, "byte"], n: int) -> Hashes:
    """Every run of n bytes inside one text."""
    many = max(0, len(b) - n + 1) if n else 0
    if not many:
        return b[:0], row[:0]
    windows = np.lib.stride_tricks.sliding_window_view(b, n)  # [window n]
    powers = np.cumprod(np.full(n, P), dtype=np.uint64)
    inside = (row[:many] == row[n - 1 :]) & (b[:many] != NEWLINE)
    return (windows * powers).sum(1, dtype=np.uint64)[inside] + Q, row[:many][inside]


def _mixed(h: UInt64[np.ndarray, "n"]) -> UInt64[np.ndarray, "n"]:
    """The finaliser of splitmix64."""
    h = (h ^ (h >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    h = (h ^ (h >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return h ^ (h >> np.uint64(31))
