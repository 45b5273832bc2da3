"""Static merges of models in memory: the same functions and blocks, arrays in, arrays out."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from taskgrove.errors import TaskgroveError
from taskgrove.merging.models import Arrays
from taskgrove.merging.plan import Recipe, planned
from taskgrove.merging.static.static import Array
from taskgrove.merging.stream import look_over_model, merge_tensor


def merged(
    method: str,
    base: Mapping[str, Array] | None,
    tuned: Sequence[Mapping[str, Array]],
    parameters: Mapping[str, Any] | None = None,
    ignore: Sequence[str] = (),
    beside: Mapping[str, Sequence[Mapping[str, Array]]] | None = None,
) -> dict[str, Array]:
    """A merged model, with the base's names, shapes and dtypes.

    >>> base, tuned = {"w": np.float32([1, 1])}, [{"w": np.float32([1, 3])}]
    >>> merged("task_arithmetic", base, tuned, {"scale": 0.5})["w"]
    array([1., 2.], dtype=float32)
    """
    first = None if base is None else Arrays("the base", base)
    models = [Arrays(f"tuned model {k}", model) for k, model in enumerate(tuned, start=1)]
    recipe = Recipe(method, (), None, parameters or {}, ignore=tuple(ignore))
    others = {
        kind: [Arrays(f"{kind} of tuned model {k}", a) for k, a in enumerate(arrays, start=1)]
        for kind, arrays in (beside or {}).items()
    }
    plan = planned(recipe, first, models, threads=1, beside=others)
    if plan.problems:
        raise TaskgroveError(" ".join(plan.problems))
    seen = look_over_model(plan)
    result = {}
    for name, entry in plan.reading.layout.entries.items():
        values = result[name] = np.empty(entry.size, _kind(base or tuned[0], name))

        def write(start: int, numbers: Array, values: Array = values) -> None:
            values[start : start + len(numbers)] = numbers

        merge_tensor(plan, name, seen, write)
        result[name] = values.reshape(entry.shape)
    return result


def _kind(model: Mapping[str, Array], name: str) -> "np.dtype[Any]":
    return model[name].dtype
