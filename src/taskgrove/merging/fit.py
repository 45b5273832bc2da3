"""Do the models fit each other? Every problem as a sentence, from headers alone.

Merged are the floating tensors; integer and boolean ones (position ids, masks) are the base's, and
must be equal in all models; BatchNorm's `num_batches_tracked`, which no prediction reads, may
differ.
"""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from math import prod
from typing import Any

import numpy as np

from taskgrove.errors import did_you_mean, listed
from taskgrove.merging.files.dtypes import FLOATS
from taskgrove.merging.models import Model
from taskgrove.merging.static.consensus import Parameters as Consensus
from taskgrove.merging.static.static import Array

COUNTER = "num_batches_tracked"
OUTPUT = "lm_head.weight"  # of causal language models; absent where it is the input embedding


def problems(layout: Model, others: Sequence[Model], ignore: Sequence[str] = ()) -> list[str]:
    """What stands against merging; nothing where all fits."""
    found = [f'--ignore "{p}" matches no tensor.' for p in ignore if not _any(layout, others, p)]
    for model in others:
        found += _against(layout, model, ignore)
    dtypes = {
        entry.dtype
        for model in (layout, *others)
        for name, entry in model.entries.items()
        if entry.dtype in FLOATS and not ignored(name, ignore)
    }
    if not dtypes:
        found.append(f"{layout.label} has no floating tensor, so there is nothing to merge.")
    return found


def dtype_problem(layout: Model, others: Sequence[Model], ignore: Sequence[str]) -> str | None:
    """Models in several number formats need a stated choice."""
    kinds = {}
    for model in (layout, *others):
        kinds[model.label] = sorted(
            {
                e.dtype
                for n, e in model.entries.items()
                if e.dtype in FLOATS and not ignored(n, ignore)
            }
        )
    if len({tuple(kind) for kind in kinds.values()}) == 1:
        return None
    told = ", ".join(f"{label}: {' and '.join(kind)}" for label, kind in kinds.items())
    return f"the models have different number formats ({told}); say which to write: --dtype bf16."


def too_many_tasks(parameters: Mapping[str, Any], models: int) -> list[str]:
    """Consensus of more tasks than there are models: nothing of them would stay."""
    asked = {each.tasks for each in parameters.values() if isinstance(each, Consensus)}
    return [
        f"tasks is {tasks}, but {models} models are merged, so nothing of them would stay; expected"
        f" at most {models}."
        for tasks in sorted(asked)
        if tasks > models
    ]


def ignored(name: str, patterns: Sequence[str]) -> bool:
    """Left as the base has it, or left out."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def whole(model: Model, name: str) -> Array:
    """All numbers of a tensor."""
    entry = model.entries[name]
    return np.array(model.read(name, 0, entry.size, memoryview(bytearray(entry.bytes))))


def _any(layout: Model, others: Sequence[Model], pattern: str) -> bool:
    return any(ignored(n, [pattern]) for model in (layout, *others) for n in model.entries)


def _against(layout: Model, model: Model, ignore: Sequence[str]) -> list[str]:
    mine = {n: e for n, e in layout.entries.items() if not ignored(n, ignore)}
    theirs = {n: e for n, e in model.entries.items() if not ignored(n, ignore)}
    lacks = [n for n in mine if n not in theirs]
    more = [n for n in theirs if n not in mine]
    if (lacks, more) in (([OUTPUT], []), ([], [OUTPUT])):
        has, hasnt = (layout, model) if lacks else (model, layout)
        return [
            f'{has.label} has its own "{OUTPUT}", {hasnt.label} uses the input embedding (tied);'
            " expected both alike: save both untied, or leave it out with --ignore lm_head.weight."
        ]
    both = [n for n in mine if n in theirs]
    shapes = [n for n in both if mine[n].shape != theirs[n].shape]
    floats = [n for n in both if (mine[n].dtype in FLOATS) != (theirs[n].dtype in FLOATS)]
    fixed = [n for n in both if n not in shapes + floats and mine[n].dtype not in FLOATS]
    differ = [n for n in fixed if not n.endswith(COUNTER) and _differ(layout, model, n)]
    told = {
        "it lacks": lacks,
        f"{layout.label} lacks": more,
        "shapes differ in": [f"{n} {theirs[n].shape} against {mine[n].shape}" for n in shapes],
        "floating in only one of the two:": floats,
        "integer or boolean tensors differ:": differ,
    }
    words = [f"{what} {listed(names)}" for what, names in told.items() if names]
    if not words:
        return []
    rows = shapes and not (lacks or more or floats or differ)
    hint = _rows(layout, model, shapes) if rows else _hint(lacks, more)
    return [f"{model.label} does not fit {layout.label}: {'; '.join(words)}.{hint}"]


def _differ(a: Model, b: Model, name: str) -> bool:
    return not np.array_equal(whole(a, name), whole(b, name))


def _rows(layout: Model, model: Model, shapes: Sequence[str]) -> str:
    """What to do where tables differ in their rows alone, all by as many: two vocabularies."""
    pairs = [(layout.entries[n].shape, model.entries[n].shape) for n in shapes]
    same = all(len(a) == len(b) > 0 and tuple(a[1:]) == tuple(b[1:]) for a, b in pairs)
    table = any(len(a) == 2 for a, _ in pairs)
    if not (same and table and len({(a[0], b[0]) for a, b in pairs}) == 1):
        return ""
    return " If their vocabularies differ: --vocabulary union, which matches rows by token."


def _hint(lacks: Sequence[str], more: Sequence[str]) -> str:
    """What to do about names."""
    ends = {name.split(".", 1)[-1]: name for name in (*lacks, *more)}
    if lacks and more and len(ends) < len(lacks) + len(more):
        return " Their names differ by a prefix: save all from the same class of model."
    if more and not lacks:
        heads = sorted({name.split(".")[0] + ".*" for name in more})
        return f" Leave task heads out: --ignore {' '.join(heads[:3])}."
    return did_you_mean(lacks[0], more) if lacks else ""


def numbers(model: Model, names: Sequence[str]) -> int:
    """How many numbers the tensors hold."""
    return sum(prod(model.entries[name].shape) for name in names)
