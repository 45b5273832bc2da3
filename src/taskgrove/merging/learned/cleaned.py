"""Clean task vectors: TIES' trim and elected sign, block by block, not yet summed.

The first two steps of Yadav, Tam, Choshen, Raffel, Bansal, "TIES-Merging", NeurIPS 2023, arXiv
2306.01708, on which AdaMerging++ (arXiv 2310.02575) learns its coefficients.

    that_k  = tau_k where |tau_k| >= r_k, else 0      r_k: the (density P)-th largest |tau_k|
    gamma   = sgn(sum_k that_k)
    tilde_k = that_k where sgn(that_k) = gamma, else 0

    tau, that, tilde: [model element]; gamma: [element]; r: [model]; P: all merged coordinates

r is found model by model, so that its memory does not grow with K (see selection); after that a
block of tilde is made from a block of tau whenever one is read, and nothing clean is stored.
Differences from the papers' code: those of `ties`, where exact ties and cancelled sums are told.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import prod
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from taskgrove.merging.learned.vectors import TensorBlocks, Vectors
from taskgrove.merging.static.selection import largest
from taskgrove.merging.static.static import At
from taskgrove.merging.static.ties import density_within

T = TypeVar("T")


class CleanVectors:
    """The clean form of task vectors, wherever those are; the base is theirs."""

    def __init__(self, vectors: Vectors, density: float = 0.2) -> None:
        density_within(density)
        self._vectors, self._density = vectors, density
        self.names, self.models, self.device = vectors.names, vectors.models, vectors.device
        keep = max(1, round(density * sum(prod(vectors.shape(n)) for n in vectors.names)))
        r = [largest(Magnitudes(vectors.only([k])), [keep])[0] for k in range(vectors.models)]
        self._r = torch.tensor(np.array(r), device=vectors.device)[:, None]  # [model 1]

    def shape(self, name: str) -> tuple[int, ...]:
        return self._vectors.shape(name)

    def base(self, name: str) -> Float[Tensor, "..."]:
        return self._vectors.base(name)

    def blocks(self, name: str) -> TensorBlocks:
        for start, tau in self._vectors.blocks(name):
            that = torch.where(tau.abs() >= self._r, tau, 0)
            gamma = that.sum(dim=0).sign()
            yield start, torch.where(that * gamma > 0, that, 0)

    def only(self, models: Sequence[int]) -> "CleanVectors":
        """Cleaned anew: the sign is elected among those that stay."""
        return CleanVectors(self._vectors.only(models), self._density)

    def whole(self, merged: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return self._vectors.whole(merged)


class Magnitudes:
    """`static.Blocks` over task vectors, for `selection.largest`; its looks see no base."""

    def __init__(self, vectors: Vectors) -> None:
        self.models = vectors.models
        self.size = sum(prod(vectors.shape(name)) for name in vectors.names)
        self._vectors = vectors

    def map(self, look: Callable[[Any, Any, At], T], every: int = 1) -> Iterator[T]:
        place = 0
        for name in self._vectors.names:
            shape = self._vectors.shape(name)
            for start, tau in self._vectors.blocks(name):
                if place % every == 0:
                    block = tau.cpu().numpy()  # [model element]
                    yield look(block[0], block, At(name, shape, start))
                place += 1
