"""Vocabulary: models whose tokenizers differ, read as if they had one, row by row.

Rows of the embedding and of the output layer are matched by token string, wherever each model keeps
the token; the tensors are those whose first dimension is each model's own `vocab_size`, whatever
their names. "base" keeps the base's tokens, "union" adds those that only tuned models have.

    row of token t in model k      theirs, if the model has t
                                   the base's, if only that has t (so nothing changed there)
    t unknown to the base          in all models the mean of those that have t ("union")
    no base: t unknown to k        the mean of those that have t

Rows without a token (padding) are matched by their number. Blocks are read as any other: what a
block needs is fetched from where each model has it, in fp32.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

import numpy as np

from taskgrove.errors import TaskgroveError
from taskgrove.merging.checkpoint import config_of
from taskgrove.merging.files.adapter import folder_of
from taskgrove.merging.files.dtypes import wide, width
from taskgrove.merging.files.lora import Facts, Lora
from taskgrove.merging.models import Model, Tensor
from taskgrove.merging.static.static import Array
from taskgrove.merging.words.tokens import FAST, SIZE, Tokens, tokens_of, vocab_size
from taskgrove.merging.words.union_tokenizer import Vocabulary, extended
from taskgrove.shapes import Int

NONE = -1  # a row that a model does not have


@dataclass(frozen=True)
class Rows:
    """Where a model has the rows of the result."""

    model: Model
    places: Int[Array, " row"]  # NONE where it does not have it


@dataclass(frozen=True)
class Aligned:
    """A model with the result's vocabulary."""

    own: Rows
    base: Rows | None  # fills what the model lacks
    owners: Sequence[Rows]  # their mean fills what the base lacks
    entries: Mapping[str, Tensor]
    names: frozenset[str]  # tensors with a row for each token
    file: Path  # where its tokens were read

    @property
    def label(self) -> str:
        """How errors name it."""
        return self.own.model.label

    def read(self, name: str, start: int, stop: int, buffer: memoryview) -> Array:
        """As the model itself; rows of tokens widened, whatever the buffer."""
        if name not in self.names:
            return self.own.model.read(name, start, stop, buffer)
        dim = prod(self.entries[name].shape[1:])
        first, last = start // dim, -(-stop // dim)
        rows = self._rows(name, dim, np.arange(first, last))
        return rows.reshape(-1)[start - first * dim : stop - first * dim]

    def _rows(self, name: str, dim: int, rows: Array) -> Array:
        found = np.empty((len(rows), dim), wide(self.entries[name].dtype))
        lacking = _fill(found, name, rows, self.own, np.arange(len(rows)))
        if self.base is not None:
            lacking = _fill(found, name, rows, self.base, lacking)
        if not len(lacking):
            return found
        total = np.zeros((len(lacking), dim))
        count = np.zeros((len(lacking), 1))
        for each in self.owners:
            part = np.zeros((len(lacking), dim), found.dtype)
            has = each.places[rows[lacking]] != NONE
            _fill(part, name, rows[lacking], each, np.flatnonzero(has))
            total += part
            count += has[:, None]
        found[lacking] = total / count
        return found


def aligned(
    base: Model | None, tuned: Sequence[Model], places: Sequence[Path], choice: str
) -> tuple[Model | None, list[Model], Vocabulary]:
    """The models with one vocabulary, "union" or "base", and how to write it.

    `places` are the folders of the models, the base's first.
    Models that have the same tokens in the same rows are given back as they are.
    """
    models = [*([] if base is None else [base]), *tuned]
    under = None if base is None else places[0]
    tokens = [_tokens(m, place, under) for m, place in zip(models, places, strict=True)]
    ids, vocabulary = extended(tokens, choice)
    size = vocabulary.size
    pairs = list(zip(models, tokens, strict=True))
    rows = [Rows(model, _places(of, ids, size)) for model, of in pairs]
    same = [np.array_equal(each.places, np.arange(size)) for each in rows]
    if all(same) and {of.size for of in tokens} == {size}:
        return base, list(tuned), vocabulary
    names = _names(models, tokens)
    owners = rows if base is None else rows[1:]
    unknown = rows[0].places == NONE
    found: list[Model] = []
    for each, of in zip(rows, tokens, strict=True):
        own = each
        if base is not None:  # rows that the base lacks are the mean everywhere
            own = replace(each, places=np.where(unknown, NONE, each.places))
        entries = dict(each.model.entries)
        for name in names:
            shape = (vocabulary.size, *entries[name].shape[1:])
            entries[name] = Facts(entries[name].dtype, shape)
        filled = None if base is None else rows[0]
        found.append(Aligned(own, filled, owners, entries, frozenset(names), of.file))
    return (None, found, vocabulary) if base is None else (found[0], found[1:], vocabulary)


def _tokens(model: Model, place: Path, under: Path | None) -> Tokens:
    """An adapter's own tokenizer counts where it saved one, with the embedding it saved."""
    folder = folder_of(under if under and isinstance(model, Lora) else place)
    if folder.is_file():
        raise TaskgroveError(
            f"{folder} is one file; expected a model folder, whose tokenizer says its tokens."
        )
    size = vocab_size(folder)
    if isinstance(model, Lora):
        has = {model.entries[n].shape[0] for n in model.saved if _is_table(model.base, n, size)}
        own = place if (place / FAST).is_file() else folder
        return tokens_of(own, max(has, default=size))
    return tokens_of(folder, size)


def _is_table(model: Model, name: str, size: int) -> bool:
    return name in model.entries and model.entries[name].shape[:1] == (size,)


def _places(tokens: Tokens, ids: Mapping[str, int], size: int) -> Int[Array, " row"]:
    """For each row of the result the model's own; rows without a token by number."""
    taken = np.zeros(max(size, tokens.size), bool)
    taken[list(tokens.ids.values())] = True
    found = np.arange(size)
    found[taken[:size] | (found >= tokens.size)] = NONE
    for token, row in ids.items():
        found[row] = tokens.ids.get(token, NONE)
    return found


def _names(models: Sequence[Model], tokens: Sequence[Tokens]) -> list[str]:
    """Tensors with a row for each token."""
    sizes = [of.size for of in tokens]
    names = []
    for name, entry in models[0].entries.items():
        others = [model.entries.get(name) for model in models]
        if all(
            each is not None and each.shape == (size, *entry.shape[1:]) and each.size
            for each, size in zip(others, sizes, strict=True)
        ):
            names.append(name)
    first = tokens[0].folder
    alike = [k for k, v in config_of(first).items() if v == sizes[0] and k != SIZE]
    if len(set(sizes)) == 1 and alike:
        raise TaskgroveError(
            f'"{alike[0]}" of {first} is {sizes[0]}, as its {SIZE} is, so the tensors with a row'
            " for each token cannot be told from others: resize one model's embedding by a row."
        )
    if not names:
        raise TaskgroveError(
            f"no tensor of {first} has {sizes[0]} rows in it and as many as {SIZE} says in each"
            f" other model; expected the embedding: correct {SIZE} in config.json."
        )
    return names


def _fill(found: Array, name: str, rows: Array, source: Rows, wanted: Array) -> Array:
    """Fetches found[wanted], rows of the result, from a model; gives back which it lacks."""
    places = source.places[rows[wanted]]
    has = places != NONE
    if has.any():
        found[wanted[has]] = _fetched(source.model, name, places[has], found.shape[1])
    return wanted[~has]


def _fetched(model: Model, name: str, places: Array, dim: int) -> Array:
    """Rows of a tensor: what lies close together is read at once."""
    order = np.argsort(places, kind="stable")
    cuts = np.flatnonzero(np.diff(places[order]) > 4) + 1
    size = width(model.entries[name].dtype)
    found = np.empty((len(places), dim), wide(model.entries[name].dtype))
    for run in np.split(order, cuts):
        first, last = places[run[0]], places[run[-1]] + 1
        room = memoryview(bytearray(int(last - first) * dim * size))
        part = model.read(name, int(first) * dim, int(last) * dim, room).reshape(-1, dim)
        found[run] = part[places[run] - first]
    return found
