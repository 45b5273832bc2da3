"""Pairs: what text embeddings are trained on. Three kinds of rows, told apart by what they have.

    partners   first and second belong together; `hard`: a third text that does not
    classes    first has a class; any two of one class belong together
    graded     first and second are alike to a degree, `grade`

A batch holds one task. Its keys say what may stand as a negative: row i's query is no negative of
row j where they have the same class, the same query or the same positive.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

Kind = Literal["partners", "classes", "graded"]


@dataclass(frozen=True)
class Pairs:
    """One task's rows, column by column; columns that its kind lacks are empty."""

    name: str
    first: Sequence[str]
    second: Sequence[str] = ()
    hard: Sequence[str] = ()  # "" where a row has none
    classes: Sequence[int] = ()
    grades: Sequence[float] = ()

    def __len__(self) -> int:
        return len(self.first)

    @property
    def kind(self) -> Kind:
        """See the top of this file."""
        return "classes" if len(self.classes) else "graded" if len(self.grades) else "partners"

    def take(self, rows: Sequence[int] | np.ndarray) -> "Pairs":
        """Some rows, in that order."""
        return Pairs(
            self.name,
            *([part[i] for i in rows] if len(part) else () for part in self._columns()),
        )

    def _columns(self) -> tuple[Sequence, ...]:
        return self.first, self.second, self.hard, self.classes, self.grades


@dataclass(frozen=True)
class PairBatch:
    """Texts of one step; the keys number the queries and the candidates (second, then hard)."""

    first: list[str]
    second: list[str]
    hard: list[str] = field(default_factory=list)
    grades: list[float] = field(default_factory=list)
    first_keys: list[int] = field(default_factory=list)
    second_keys: list[int] = field(default_factory=list)  # of the candidates: [second + hard]
    twins: list[int] = field(default_factory=list)  # of the queries: equal texts, equal numbers


class Draw:
    """An endless stream of batches of one task: all rows in a random order, then in another."""

    def __init__(self, pairs: Pairs, size: int, seed: int) -> None:
        self.pairs, self.size = pairs, min(size, len(pairs))
        self.random = np.random.default_rng(seed)
        self.left: list[int] = []
        self.mates: dict[int, list[int]] = defaultdict(list)
        for row, label in enumerate(pairs.classes):
            self.mates[label].append(row)

    def __call__(self) -> PairBatch:
        """The next batch; the last rows of an order that fill none are dropped."""
        if len(self.left) < self.size:
            self.left = self.random.permutation(len(self.pairs)).tolist()
        rows, self.left = self.left[: self.size], self.left[self.size :]
        some = self.pairs.take(rows)
        if some.kind == "classes":
            mates = [self._mate(row) for row in rows]
            second = [self.pairs.first[mate] for mate in mates]
            labels = list(some.classes)
            return PairBatch(list(some.first), second, [], [], labels, labels, _numbers(some.first))
        hard = [text for text in some.hard if text]
        texts = _numbers([*some.second, *hard])
        return PairBatch(list(some.first), list(some.second), hard, list(some.grades),
                         texts[: len(rows)], texts, _numbers(some.first))  # fmt: skip

    def _mate(self, row: int) -> int:
        """Another row of the class, or the row itself where there is no other."""
        mates = self.mates[self.pairs.classes[row]]
        mate = mates[self.random.integers(len(mates))]
        while mate == row and len(mates) > 1:
            mate = mates[self.random.integers(len(mates))]
        return mate


def _numbers(texts: Sequence[str]) -> list[int]:
    """Equal texts, equal numbers."""
    seen: dict[str, int] = {}
    return [seen.setdefault(text, len(seen)) for text in texts]
