"""Plan: what a merge will do, from headers alone, with every problem that stands against it."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

from taskgrove import __version__
from taskgrove.errors import TaskgroveError, did_you_mean, listed
from taskgrove.merging.blocks import BLOCK, Reading
from taskgrove.merging.files.beside import open_beside, problems_beside
from taskgrove.merging.files.dtypes import FLOATS, SHORT
from taskgrove.merging.files.layout import SHARD, Shard, layout
from taskgrove.merging.fit import dtype_problem, ignored, problems, too_many_tasks
from taskgrove.merging.models import Model
from taskgrove.merging.open_model import files_of, open_model
from taskgrove.merging.rules import by_tensor
from taskgrove.merging.static.static import Static
from taskgrove.merging.static.table import STATIC
from taskgrove.merging.whole import room
from taskgrove.merging.words.union_tokenizer import Vocabulary
from taskgrove.merging.words.vocabulary import aligned

PROCESS = 90_000_000  # bytes of an interpreter with numpy


@dataclass(frozen=True)
class Recipe:
    """What to merge; the fields of a recipe.yaml."""

    method: str
    tuned: tuple[str, ...]
    base: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    dtype: str | None = None  # of the result: fp32, bf16, fp16; as the base if left out
    ignore: tuple[str, ...] = ()  # patterns of tensors that are left as the base has them
    shard_size: int = SHARD  # bytes
    allow_nan: bool = False
    beside: Mapping[str, Sequence[str]] = field(default_factory=dict)  # {kind: a folder a model}
    vocabulary: str | None = None  # "union" or "base": rows of tokens are matched by token


@dataclass(frozen=True)
class Plan:
    """A merge before it begins."""

    recipe: Recipe
    static: Static
    reading: Reading
    parameters: Mapping[str, Any]  # {merged tensor: its parameters}
    copied: tuple[str, ...]  # tensors that are the base's
    shards: Sequence[Shard]
    dtypes: Mapping[str, str]  # of the result's tensors
    problems: Sequence[str]
    vocabulary: Vocabulary | None = None  # of the result, where the models' were aligned

    @property
    def read(self) -> int:
        """Bytes, all passes and models."""
        models = [m for m in (self.reading.base, *self.reading.tuned) if m is not None]
        once = sum(m.entries[n].bytes for m in models for n in self.parameters if n in m.entries)
        return once * self.static.passes

    @property
    def written(self) -> int:
        """Bytes."""
        return sum(shard.size for shard in self.shards)

    @property
    def memory(self) -> int:
        """Bytes, about."""
        models = len(self.reading.tuned) + 1
        size = BLOCK * (4 * (3 * models + 4) + 8)
        if self.static.takes == "matrix":
            shapes = [self.reading.layout.entries[n].shape for n in self.parameters]
            size += room(filter(self.static.matrix, shapes), self.reading) // self.reading.threads
        return PROCESS + self.reading.threads * size

    @property
    def mark(self) -> str:
        """What a merge that was stopped must have in common with the one that goes on."""
        models = [m for m in (self.reading.base, *self.reading.tuned) if m is not None]
        models += [model for beside in self.reading.beside.values() for model in beside]
        files = [file for model in models for file in files_of(model)]
        stamps = [(str(f.resolve()), f.stat().st_size, f.stat().st_mtime_ns) for f in files]
        labels = [model.label for model in models]
        names = ("method", "dtype", "ignore", "allow_nan", "vocabulary")
        recipe = {n: getattr(self.recipe, n) for n in names}
        shown = [stamps, labels, recipe, {n: repr(p) for n, p in self.parameters.items()}]
        shown += [[shard.header.hex() for shard in self.shards], __version__]
        return blake2b(json.dumps(shown).encode(), digest_size=16).hexdigest()


def plan(recipe: Recipe, threads: int | None = None) -> Plan:
    """Opens the models and checks them; raises only for what leaves nothing to plan."""
    beside = open_beside(recipe.method, static_of(recipe.method), recipe.beside)
    base = None if recipe.base is None else open_model(Path(recipe.base), None)
    tuned = [open_model(Path(place), base) for place in recipe.tuned]
    vocabulary = None
    if recipe.vocabulary is not None:
        places = [Path(p) for p in (recipe.base, *recipe.tuned) if p is not None]
        base, tuned, vocabulary = aligned(base, tuned, places, recipe.vocabulary)
    found = planned(recipe, base, tuned, threads or min(4, _cores()), beside)
    return replace(found, problems=[*_same(recipe), *found.problems], vocabulary=vocabulary)


def planned(
    recipe: Recipe,
    base: Model | None,
    tuned: Sequence[Model],
    threads: int,
    beside: Mapping[str, Sequence[Model]] | None = None,
) -> Plan:
    """The same from models that are open."""
    static = static_of(recipe.method)
    found = _count(recipe.method, static, base, tuned)
    if not tuned:
        raise TaskgroveError(" ".join(found))
    reading = Reading(base, tuned, threads, recipe.allow_nan, beside or {})
    first = reading.layout
    others = [model for model in tuned if model is not first]
    found += problems(first, others, recipe.ignore)
    dtype, mixed = _dtype(recipe), dtype_problem(first, others, recipe.ignore)
    found += [mixed] if mixed and dtype is None else []
    merged = [
        name
        for name, entry in first.entries.items()
        if entry.dtype in FLOATS and not ignored(name, recipe.ignore)
    ]
    found += problems_beside(recipe.method, static, reading, merged)
    parameters: dict[str, Any] = {}
    try:
        parameters = by_tensor(recipe.method, static, recipe.parameters, merged, len(tuned))
    except TaskgroveError as error:
        found.append(str(error))
    found += too_many_tasks(parameters, len(tuned))
    dtypes = {
        n: (dtype or e.dtype) if n in parameters else e.dtype for n, e in first.entries.items()
    }
    shards = layout({n: (dtypes[n], e.shape) for n, e in first.entries.items()}, recipe.shard_size)
    copied = tuple(name for name in first.entries if name not in parameters)
    return Plan(recipe, static, reading, parameters, copied, shards, dtypes, found)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def static_of(name: str) -> Static:
    """The method called `name`."""
    if name not in STATIC:
        hint = did_you_mean(name, STATIC)
        raise TaskgroveError(
            f'there is no merging method "{name}"; there are {listed(STATIC, 40)}.{hint}'
        )
    return STATIC[name]


def _dtype(recipe: Recipe) -> str | None:
    if recipe.dtype is not None and recipe.dtype not in SHORT:
        hint = did_you_mean(recipe.dtype, SHORT)
        raise TaskgroveError(f"dtype is {recipe.dtype}; expected one of {listed(SHORT)}.{hint}")
    return None if recipe.dtype is None else SHORT[recipe.dtype]


def _count(method: str, static: Static, base: Model | None, tuned: Sequence[Model]) -> list[str]:
    found = []
    least, most = static.models
    if len(tuned) < least or (most is not None and len(tuned) > most):
        span = (
            f"{least}"
            if most == least
            else f"{least} or more"
            if most is None
            else f"{least} to {most}"
        )
        found.append(f"{method} merges {span} models; got {len(tuned)}: give --tuned A1 A2.")
    if base is None and static.base == "needed":
        found.append(f"{method} needs the base that the models were tuned from: give --base.")
    return found


def _same(recipe: Recipe) -> list[str]:
    """Two inputs that are one."""
    places = [p for p in (recipe.base, *recipe.tuned) if p is not None]
    seen: dict[Path, str] = {}
    found = []
    for place in places:
        real = Path(place).resolve()
        if real in seen:
            found.append(f"{seen[real]} and {place} are the same model; give each once.")
        seen.setdefault(real, place)
    return found
