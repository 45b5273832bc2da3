"""Task vectors of K tuned models over one base, wherever they are, read block by block.

Ilharco et al., "Editing Models with Task Arithmetic", ICLR 2023, arXiv 2212.04089 (tau_k). Learned
merges need two things of them, per named tensor l, and neither needs K models in memory:

    out += sum_k c_k tau_k^l              c: [model], or [model part] over a random partition
    <G, tau_k^l> for every k              G: the shape of tensor l; result [model] or [model part]

    tau^l: [model element] in blocks of elements; sums over blocks are in fp64, within one in fp32

`MemoryVectors` are dicts of tensors (any device); `DiskVectors` (see disk_vectors) folders;
`CleanVectors` (see cleaned) either of them after TIES. Difference from the paper: nothing.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from taskgrove.merging.learned.task_vector import models_in, tied, wide

BLOCK = 2**16  # elements of each model at a time, where they are in memory already

TensorBlocks = Iterator[tuple[int, Float[Tensor, "model element"]]]  # (first element, tau); reused
Parts = Callable[[int, int], Int[Tensor, " element"]]  # elements start..stop -> their parts


@runtime_checkable
class Vectors(Protocol):
    """What learned merges need of task vectors."""

    @property
    def names(self) -> tuple[str, ...]:
        """The merged tensors, in order."""
        ...

    @property
    def models(self) -> int:
        """K."""
        ...

    @property
    def device(self) -> torch.device:
        """Where `base` and `blocks` are."""
        ...

    def shape(self, name: str) -> tuple[int, ...]:
        """Of a merged tensor."""
        ...

    def base(self, name: str) -> Float[Tensor, "..."]:
        """theta_0^l in fp32, a new tensor."""
        ...

    def blocks(self, name: str) -> TensorBlocks:
        """tau^l in order; a block is valid until the next one is asked for."""
        ...

    def only(self, models: Sequence[int]) -> "Vectors":
        """Those of some of the models, by place."""
        ...

    def whole(self, merged: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """All the model's tensors, `merged` in their places (tied names too), for a forward."""
        ...


class MemoryVectors:
    """Task vectors held as a dict: deltas[name] is [model, *shape]. Nothing is copied."""

    def __init__(
        self, base: Mapping[str, Tensor], deltas: Mapping[str, Float[Tensor, "model ..."]]
    ) -> None:
        self._base, self._deltas = base, deltas
        self.models = models_in(base, deltas)
        self.names = tuple(deltas)
        self.device = deltas[self.names[0]].device
        self._first = tied(base)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._base[name].shape)

    def base(self, name: str) -> Float[Tensor, "..."]:
        """fp64 where the model is."""
        return wide(self._base[name]).clone(memory_format=torch.contiguous_format)

    def blocks(self, name: str) -> TensorBlocks:
        tau = self._deltas[name]
        tau = tau.reshape(self.models, self._base[name].numel())  # [model element]
        for start in range(0, tau.shape[1], BLOCK):
            yield start, tau[:, start : start + BLOCK]

    def only(self, models: Sequence[int]) -> "MemoryVectors":
        first, chosen = models[0], list(models)
        few = slice(first, first + 1) if len(chosen) == 1 else chosen  # of one, a view
        return MemoryVectors(self._base, {n: tau[few] for n, tau in self._deltas.items()})

    def whole(self, merged: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """In the base's dtypes; tensors that are not merged are the base's own."""
        whole: dict[str, Tensor] = {}
        for name, theta_0 in self._base.items():
            if name in merged:
                whole[name] = merged[name].to(theta_0.dtype)
            else:  # a later name of a tied tensor, or not merged at all
                whole[name] = whole.get(self._first.get(name, name), theta_0)
        return whole


def add_scaled(
    blocks: TensorBlocks, c: Float[Tensor, "model *part"], out: Tensor, parts: Parts | None = None
) -> None:
    """out += sum_k c_k tau_k, or sum_k sum_p c_kp M_p tau_k with M_p the mask of a part."""
    flat = out.view(-1)
    for start, tau in blocks:
        stop = start + tau.shape[1]
        if parts is None:
            _plus(flat[start:stop], tau, c.to(tau))
        else:
            mine = c.to(tau)[:, parts(start, stop).to(tau.device)]  # [model element]
            flat[start:stop] += (mine * tau).sum(dim=0)


def inner(
    blocks: TensorBlocks,
    models: int,
    G: Float[Tensor, "..."],
    parts: Parts | None = None,
    count: int = 1,
) -> Float[Tensor, "model *part"]:
    """<G, tau_k>, or with `parts` [model part], the part of the sum that lies in each."""
    flat = G.reshape(-1)
    found = flat.new_zeros((models,) if parts is None else (models, count), dtype=torch.float64)
    for start, tau in blocks:
        g = flat[start : start + tau.shape[1]].to(tau)
        if parts is None:
            found += tau @ g
        else:
            part = parts(start, start + tau.shape[1]).to(tau.device).expand(models, -1)
            found.scatter_add_(1, part, (tau * g).double())
    return found.float()


def gram(vectors: Vectors) -> Float[Tensor, "model model"]:
    """<tau_i, tau_j> over all merged tensors, in fp64: lengths and cosines of the task vectors."""
    total = torch.zeros(vectors.models, vectors.models, dtype=torch.float64, device=vectors.device)
    for name in vectors.names:
        for _, tau in vectors.blocks(name):
            total += tau @ tau.T
    return total


def _plus(out: Tensor, tau: Float[Tensor, "model element"], c: Float[Tensor, " model"]) -> None:
    if out.dtype == tau.dtype:
        out.addmv_(tau.T, c)
    else:
        out += c @ tau
