"""A table's columns as one vector: what must be known from the training rows, and nothing else.

A number is standardised by the mean and standard deviation of its training rows; a missing one
(NaN or infinite) becomes 0, the mean, plus a flag where any was missing in training. A category
is one of its 64 most frequent values, or other, or missing.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from taskgrove.errors import TaskgroveError, listed

MOST_VALUES = 64
Column = Sequence[str | None]
Numbers = Float[Tensor, "row number"] | Float[np.ndarray, "row number"]


@dataclass(frozen=True)
class TableSpec:
    numbers: tuple[str, ...]  # names of the numeric columns
    mean: tuple[float, ...]  # of each, over the training rows that have it
    std: tuple[float, ...]  # of each, 1 where the column is constant
    flagged: tuple[bool, ...]  # of each, whether a training row lacked it
    categories: dict[str, list[str]]  # column -> values known, most frequent first

    @property
    def dim(self) -> int:
        """The length of an encoded row."""
        known = sum(len(values) + 2 for values in self.categories.values())
        return len(self.numbers) + sum(self.flagged) + known

    def unknown(self) -> list[int]:
        """The places of "other" and "missing" of every category in an encoded row."""
        places, at = [], len(self.numbers) + sum(self.flagged)
        for values in self.categories.values():
            at += len(values) + 2
            places += [at - 2, at - 1]
        return places


def fit(
    numbers: Numbers,
    categories: Sequence[Column],
    number_names: Sequence[str],
    category_names: Sequence[str],
) -> TableSpec:
    """Reads means, deviations, gaps and values off the training rows; sums run in float64."""
    _check(numbers, categories, number_names, category_names)
    x = torch.as_tensor(numbers).double()  # [row number]
    seen = x.isfinite()
    rows = seen.sum(0).clamp(min=1)
    mean = x.where(seen, 0).sum(0) / rows
    std = ((x - mean).where(seen, 0).square().sum(0) / rows).sqrt()
    std = std.where(std > 1e-7 * mean.abs(), 1)  # a constant column stays constant
    return TableSpec(
        numbers=tuple(number_names),
        mean=tuple(mean.tolist()),
        std=tuple(std.tolist()),
        flagged=tuple((~seen).any(0).tolist()),
        categories={n: _values(c) for n, c in zip(category_names, categories, strict=True)},
    )


def encode(
    spec: TableSpec, numbers: Numbers, categories: Sequence[Column]
) -> Float[Tensor, "row dim"]:
    """Rows as vectors: numbers, flags, then one block per category."""
    _check(numbers, categories, spec.numbers, list(spec.categories))
    x = torch.as_tensor(numbers).double()
    seen = x.isfinite()
    mean, std = (torch.tensor(each, dtype=torch.float64) for each in (spec.mean, spec.std))
    z = (x - mean) / std
    flags = (~seen)[:, torch.tensor(spec.flagged, dtype=torch.bool)]
    blocks = [z.where(seen, 0).float(), flags.float()]
    for values, column in zip(spec.categories.values(), categories, strict=True):
        place: dict[str | None, int] = {value: i for i, value in enumerate(values)}
        place[None] = len(values) + 1
        index = torch.tensor([place.get(value, len(values)) for value in column], dtype=torch.long)
        blocks.append(torch.nn.functional.one_hot(index, len(values) + 2).float())
    return torch.cat(blocks, dim=1)


def from_dict(values: dict[str, Any]) -> TableSpec:
    """The inverse of `dataclasses.asdict`, also after JSON, which keeps a float64 exactly."""
    sequences = {name: tuple(values[name]) for name in ("numbers", "mean", "std", "flagged")}
    return TableSpec(**sequences, categories=values["categories"])


def _values(column: Column) -> list[str]:
    counts = Counter(value for value in column if value is not None)
    return sorted(counts, key=lambda value: (-counts[value], value))[:MOST_VALUES]


def _check(
    numbers: Numbers,
    categories: Sequence[Column],
    number_names: Sequence[str],
    names: Sequence[str],
) -> None:
    if numbers.shape[1] != len(number_names):
        raise TaskgroveError(
            f"{numbers.shape[1]} numeric columns came, but there are {len(number_names)}:"
            f" {listed(number_names)}."
        )
    if len(categories) != len(names):
        raise TaskgroveError(
            f"{len(categories)} categorical columns came, but there are {len(names)}:"
            f" {listed(names)}."
        )
    for name, column in zip(names, categories, strict=True):
        if len(column) != numbers.shape[0]:
            raise TaskgroveError(
                f'column "{name}" has {len(column)} rows, the numbers have {numbers.shape[0]}.'
            )
