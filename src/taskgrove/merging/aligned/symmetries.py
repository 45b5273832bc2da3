"""Which permutations of a model's hidden units leave its outputs alone: derived, then checked.

The groups of Ainsworth, Hayase, Srinivasa, "Git Re-Basin", ICLR 2023, arXiv 2209.04836, which the
paper writes down by hand for each architecture. Here they come from a forward pass that is watched
(`axis_trace`), and each is tried: a random permutation of it must leave the outputs as they were.

    f(x; P theta) = f(x; theta)     for every x, P a permutation of every free group

    theta: named tensors; P acts on each dimension of each tensor as `permutations.move` says

Differences from the paper: groups may lie within others (numbers within a head, heads within a
key-value group, channels within a convolution's group), which a transformer needs.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from taskgrove.merging.aligned.axes import Atom, Axis, Stacked, blocks, freeze, leaves
from taskgrove.merging.aligned.axis_trace import AxisTrace, settle
from taskgrove.merging.aligned.permutations import Block, Group, Symmetries
from taskgrove.merging.aligned.symmetry_check import Inputs, checked, run


def symmetries(model: nn.Module, inputs: Inputs, seed: int = 0) -> Symmetries:
    """The groups of a model, from its forward pass on example inputs; see `Symmetries`.

    Two or more rows, of sizes as in use, serve best. The model is left as it was.
    """
    with _quiet(model):
        trace = AxisTrace(model)
        with sdpa_kernel(SDPBackend.MATH), trace:
            outputs = run(model, {}, inputs)
        for x in outputs:
            for axis in trace.label(x) if x in trace.labels else ():
                freeze(axis, "an output of the model")
        found = _spec(model, trace)
        return checked(found, model, inputs, trace.statistics, np.random.default_rng(seed))


@contextmanager
def _quiet(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, no gradients, no fused layers that hide what they do."""
    modes = [(module, module.training) for module in model.modules()]
    fused = torch.backends.mha.get_fastpath_enabled(), torch._C._get_mkldnn_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    torch._C._set_mkldnn_enabled(False)
    try:
        model.eval()
        with torch.no_grad():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused[0])
        torch._C._set_mkldnn_enabled(fused[1])
        for module, mode in modes:
            module.training = mode


def _spec(model: nn.Module, trace: AxisTrace) -> Symmetries:
    """Atoms to numbered groups."""
    named = {trace.names[x]: x for x in trace.names}
    for name in named.keys() - trace.used:
        for axis in trace.labels[named[name]]:
            freeze(axis, "not used on the example inputs")
    stacked = settle(trace)
    parts = {name: blocks(trace.labels[x], stacked) for name, x in named.items()}
    order = list(dict.fromkeys(a for p in parts.values() for _, atoms in p for a in atoms))
    parents = _parents(order, trace, stacked)
    order.sort(key=lambda atom: len(parents[atom]))  # stable: parents come first
    number = {atom: n for n, atom in enumerate(order)}
    aliases = _aliases(model)
    places: dict[Atom, list[str]] = {atom: [] for atom in order}
    for name, each in parts.items():
        for atom in {atom for _, atoms in each for atom in atoms}:
            places[atom].append(name)
    return Symmetries(
        tuple(
            Group(a.size, tuple(places[a]), tuple(number[p] for p in parents[a]), _reason(a))
            for a in order
        ),
        tuple(
            Block(
                aliases.get(name, (name,)),
                ranges,
                tuple(number[atom] for atom in atoms),
                name in trace.statistics,
            )
            for name, each in parts.items()
            for ranges, atoms in each
        ),
        {alias: tuple(x.shape) for n, x in named.items() for alias in aliases.get(n, (n,))},
    )


def _reason(atom: Atom) -> str:
    if atom.parts is None:
        return atom.frozen
    return next((leaf.frozen for leaf in leaves((atom,))), "each of its positions is used alone")


def _aliases(model: nn.Module) -> dict[str, tuple[str, ...]]:
    """Every parameter's names, by the first."""
    found: dict[int, tuple[str, ...]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        found[id(parameter)] = (*found.get(id(parameter), ()), name)
    return {names[0]: names for names in found.values()}


def _parents(order: Sequence[Atom], trace: AxisTrace, stacked: Stacked) -> dict[Atom, Axis]:
    """A permutation may differ along whatever goes with it in every tensor it occurs in."""
    labels = [*trace.seen.values(), *(trace.labels[x] for x in trace.names)]
    seen = list({atoms for label in labels for _, atoms in blocks(label, stacked)})
    where = {atom: {n for n, atoms in enumerate(seen) if atom in atoms} for atom in order}
    ranked = sorted(order, key=lambda atom: -len(where[atom]))  # stable
    found: dict[Atom, Axis] = {}
    for n, atom in enumerate(ranked):
        chain: Axis = ()
        for outer in () if atom.frozen or atom.parts else ranked[:n]:
            along = where[atom] <= where[outer] and set(chain) <= {*found[outer]}
            if along and all(_paired(seen[each], atom, outer) for each in where[atom]):
                chain = (*chain, outer)
        found[atom] = chain
    return found


def _paired(atoms: Axis, inner: Atom, outer: Atom) -> bool:
    """Whether it is clear which `outer` each `inner` of a tensor goes with."""
    kinds = [atom for atom in atoms if atom in (inner, outer)]
    return kinds.count(outer) == 1 or kinds == [outer, inner] * kinds.count(inner)
