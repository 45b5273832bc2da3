"""Who reads which documents of a kind of text (see text_kinds): none is read by two.

The first quarter is for base models, the second for development (seed -1), of the rest each seed
draws its own test, validation and training documents.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from taskgrove.suites.text_kinds import documents
from taskgrove.suites.text_models import tokens_of


def mixture(kinds: Sequence[str], characters: int = 60_000, most: int | None = None) -> list[str]:
    """What base models are trained on: prose, and a little of each kind; `most` documents each."""
    prose = documents("prose")
    parts: list[Sequence[str]] = [prose[: len(prose) * 3 // 4]]
    parts += [up_to(part(kind, 0), characters) for kind in kinds]
    return [text for texts in parts for text in texts[:most]]


def part(kind: str, number: int) -> tuple[str, ...]:
    """0: for the base; 1: for development; 2: for seeds."""
    found = documents(kind)
    ends = (0, len(found) // 4, len(found) // 2, len(found))
    return found[ends[number] : ends[number + 1]]


def up_to(texts: Sequence[str], characters: int) -> list[str]:
    """The first texts, until there are so many characters."""
    before = np.cumsum([0, *map(len, texts)])
    return [text for text, at in zip(texts, before, strict=False) if at < characters]


def split(kind: str, seed: int, characters: dict[str, int]) -> dict[str, list[str]]:
    """A seed's documents; `characters`: {split: how many}, in the order in which they are taken."""
    found = part(kind, 1 if seed < 0 else 2)
    texts: dict[str, list[str]] = {}
    mixed: list[str] = [found[n] for n in np.random.default_rng(abs(seed)).permutation(len(found))]
    for name, count in characters.items():
        texts[name] = up_to(mixed, count)
        mixed = mixed[len(texts[name]) :]
    return texts


def draw(
    kind: str, tokenizer: Any, seed: int, test: int, validation: int, train: int
) -> dict[str, Tensor]:
    """A seed's tokens: so many for test and validation, of so many characters for training."""
    counts = {"test": test, "validation": validation}
    characters = {name: 3 * count for name, count in counts.items()}  # a token has fewer than 3
    texts = split(kind, seed, characters | {"train": train})
    found = {name: tokens_of(tokenizer, each) for name, each in texts.items()}
    return {name: tokens[: counts.get(name)] for name, tokens in found.items()}
