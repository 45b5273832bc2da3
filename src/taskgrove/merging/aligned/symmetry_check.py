"""Tries a model's symmetries: a random permutation must leave the outputs as they were."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import tree_leaves, tree_map

from taskgrove.errors import TaskgroveError
from taskgrove.merging.aligned.permutations import Symmetries, permuted, random_permutations

Inputs = Tensor | Sequence[Any] | Mapping[str, Any]
TOLERANCE = 1e-4  # of the largest output, in float32


def run(model: nn.Module, state: Mapping[str, Tensor], inputs: Inputs) -> list[Tensor]:
    """The floating outputs, whatever holds them."""
    args = () if isinstance(inputs, Mapping) else inputs
    args = (args,) if isinstance(args, Tensor) else tuple(args)
    kwargs = dict(inputs) if isinstance(inputs, Mapping) else {}
    try:
        found = (
            functional_call(model, dict(state), args, kwargs) if state else model(*args, **kwargs)
        )
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError, KeyError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise TaskgroveError(
            f"{type(model).__name__} could not be run on the example inputs ({reason}); expected"
            " a tensor, a tuple of arguments or a mapping of named ones, as the model takes them."
        ) from error
    tensors = [x for x in tree_leaves(found) if isinstance(x, Tensor)]
    tensors = [x for x in tensors if x.is_floating_point()]
    if not tensors:
        raise TaskgroveError(
            f"{type(model).__name__} returned no floating tensor but {type(found).__name__}, so"
            " nothing says what a permutation must leave alone; wrap it to return its outputs."
        )
    return tensors


def checked(
    found: Symmetries,
    model: nn.Module,
    inputs: Inputs,
    statistics: set[str],
    rng: np.random.Generator,
) -> Symmetries:
    """Freezes groups whose random permutation changes the outputs of a shaken model."""
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    state = {name: _shaken(x, name in statistics, rng) for name, x in tensors.items()}
    inputs = tree_map(_single, inputs)
    expected = run(model, state, inputs)

    def change(groups: Sequence[int]) -> float:
        arrays = {name: x.numpy() for name, x in state.items()}
        moved = permuted(found, random_permutations(found, rng, groups), arrays)
        got = run(model, {name: torch.from_numpy(x) for name, x in moved.items()}, inputs)
        return max(_difference(x, y) for x, y in zip(expected, got, strict=True))

    if not all(x.isfinite().all() for x in run(model, {}, inputs)):
        raise TaskgroveError(
            f"{type(model).__name__} gives NaN or infinite outputs on the example inputs, so"
            " nothing can be compared; expected finite ones: look at its weights and the inputs."
        )
    if (again := max(map(_difference, expected, run(model, state, inputs)))) > TOLERANCE:
        raise TaskgroveError(
            f"{type(model).__name__} gives other outputs each time it is run (they differ by"
            f" {again:.1e}); expected a forward pass without random numbers."
        )
    while (free := found.free()) and not change(free) <= TOLERANCE:
        off = {n: each for n in free if not (each := change([n])) <= TOLERANCE}
        if not off:
            off = dict.fromkeys(free, 0.0)
        why = {n: f"a permutation changed the outputs by {each:.1e}" for n, each in off.items()}
        groups = [replace(g, frozen=why.get(n, g.frozen)) for n, g in enumerate(found.groups)]
        found = replace(found, groups=tuple(groups))
    return found


def _single(x: Any) -> Any:
    """On the CPU; floating numbers in single precision."""
    if not isinstance(x, Tensor):
        return x
    return (x.detach().float() if x.is_floating_point() else x.detach()).cpu()


def _shaken(x: Tensor, statistic: bool, rng: np.random.Generator) -> Tensor:
    """Weights as if trained: ones, zeros and small numbers would hide a wrong permutation."""
    x = _single(x)
    if not x.is_floating_point():
        return x
    noise = torch.from_numpy(rng.standard_normal(tuple(x.shape), dtype="float32"))
    if statistic:
        return x * noise.exp()
    return x + noise * (0.3 * x.square().mean().sqrt() + 0.01)


def _difference(x: Tensor, y: Tensor) -> float:
    return float((x - y).abs().max() / x.abs().max().clamp(min=1e-30))
