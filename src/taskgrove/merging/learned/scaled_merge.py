"""Scaled merge: task vectors times learned coefficients, the part that learned merges share.

AdaMerging (arXiv 2310.02575), aTLAS (arXiv 2407.02880), Self Positioning (arXiv 2410.15035). The
merged weights are made leaves of the graph, so a loss gives one gradient per weight tensor; the
chain rule turns it into the coefficients' gradients by inner products, never through K copies.

    theta^l     = theta_0^l + sum_k c_k^l tau_k^l
    dL/dc_k^l   = <dL/dtheta^l, tau_k^l>                     then through c, which is a few numbers

    granularity  "task": c_k                     "tensor": c_k^l
                 "partition": c_k^lp, one per random part p of tensor l (see partition)
    c            "free":          clamp(lam, bounds)                  lam: the shape of c
                 "simplex+scale": max(m, 0) softmax(a)                a: [model], m: []; task only

    theta_0^l, theta^l: [...]; c: [model], [model tensor] or [model tensor part]

A step: `W = merge.weights()`; `backward()` on losses of W; `merge.backward_from(W's gradients)`.
Memory beside the vectors: W, one gradient per tensor and the vectors' blocks, whatever K and
however many tasks. Difference from the papers: nothing but the order of computation.
`state_dict` is the coefficients only. BatchNorm's running statistics take no gradient (torch has
none): their coefficients stay at `init`; re-estimate the statistics after the merge.
"""

import math
from collections.abc import Mapping
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from taskgrove.errors import TaskgroveError, did_you_mean, listed
from taskgrove.merging.learned.partition import parts_of
from taskgrove.merging.learned.vectors import Parts, Vectors, add_scaled, inner

GRANULARITIES = ("task", "tensor", "partition")
PARAMETRISATIONS = ("free", "simplex+scale")
STATISTICS = ("running_mean", "running_var")  # of BatchNorm; torch cannot differentiate them


class ScaledMerge(nn.Module):
    """Coefficients over task vectors; every named tensor has its own unless granularity="task".

    With "simplex+scale", `init` is the scale m, and the weights begin equal.
    """

    def __init__(
        self,
        vectors: Vectors,
        granularity: str = "tensor",
        init: float = 0.3,
        bounds: tuple[float, float] | None = (0.0, 1.0),
        parametrisation: str = "free",
        partitions: int = 1,  # K of aTLAS x K
        seed: int = 0,  # of the partition
    ) -> None:
        super().__init__()
        _check(granularity, parametrisation, init, bounds, partitions)
        self.vectors, self.granularity = vectors, granularity
        self.names = vectors.names  # the columns of the coefficients
        self.bounds = bounds or (-math.inf, math.inf)
        self.partitions, self.seed = partitions, seed
        shape: tuple[int, ...] = (vectors.models,)
        if granularity != "task":
            shape += (len(self.names),)
        if granularity == "partition":
            shape += (partitions,)
        simplex = parametrisation == "simplex+scale"
        first = torch.full(shape, 0.0 if simplex else float(init), device=vectors.device)
        self.coefficients = nn.Parameter(first)  # lam, or a
        self.scale = nn.Parameter(first.new_tensor(float(init))) if simplex else None  # m

    def scales(self) -> Float[Tensor, "model *tensor"]:
        """c: the coefficients in force, a function of the parameters that autograd knows."""
        if self.scale is not None:
            return self.scale.clamp(min=0) * self.coefficients.softmax(dim=0)
        return self.coefficients.clamp(*self.bounds)

    @torch.no_grad()
    def weights(self) -> dict[str, Tensor]:
        """theta: a full set of weights whose merged tensors are new leaves that take gradients."""
        c = self.scales()
        merged = {name: self._tensor(name, i, c) for i, name in enumerate(self.names)}
        whole = self.vectors.whole(merged)
        for name in self.names:
            whole[name].requires_grad_(not name.endswith(STATISTICS))
        return whole

    def backward_from(self, weight_grads: Mapping[str, Tensor | None]) -> None:
        """Adds dL/dlam to the parameters' `.grad`, given dL/dtheta by name (None, absent: 0)."""
        c = self.scales()
        products = torch.zeros_like(c)
        for i, name in enumerate(self.names):
            gradient = weight_grads.get(name)
            if gradient is not None:
                self._column(products, i).add_(self._inner(name, gradient.detach()))
        c.backward(products)

    def _tensor(self, name: str, i: int, c: Float[Tensor, "model *tensor"]) -> Tensor:
        theta = self.vectors.base(name)
        add_scaled(self.vectors.blocks(name), self._column(c, i), theta, self._parts(name))
        return theta

    def _inner(self, name: str, gradient: Tensor) -> Float[Tensor, "model *part"]:
        dense = gradient.to_dense() if gradient.is_sparse else gradient
        return inner(
            self.vectors.blocks(name),
            self.vectors.models,
            dense,
            self._parts(name),
            self.partitions,
        )

    def _column(self, c: Tensor, i: int) -> Float[Tensor, "model *part"]:
        return c if self.granularity == "task" else c[:, i]

    def _parts(self, name: str) -> Parts | None:
        if self.granularity != "partition":
            return None
        return partial(parts_of, name, parts=self.partitions, seed=self.seed)


def _check(
    granularity: str,
    parametrisation: str,
    init: float,
    bounds: tuple[float, float] | None,
    partitions: int,
) -> None:
    for what, got, known in [
        ("granularity", granularity, GRANULARITIES),
        ("parametrisation", parametrisation, PARAMETRISATIONS),
    ]:
        if got not in known:
            hint = did_you_mean(got, known)
            raise TaskgroveError(f'{what} is "{got}"; expected one of {listed(known)}.{hint}')
    if parametrisation != "free" and granularity != "task":
        raise TaskgroveError(
            f'parametrisation "{parametrisation}" has one weight per model; expected granularity '
            f'"task", not "{granularity}".'
        )
    if not math.isfinite(init):
        raise TaskgroveError(f"init is {init}; expected a finite number such as 0.3.")
    if parametrisation == "free" and bounds is not None and not bounds[0] <= init <= bounds[1]:
        raise TaskgroveError(
            f"init is {init}, outside the bounds {bounds}, where a coefficient has no gradient; "
            "expected a value within them."
        )
    if partitions < 1 or (partitions > 1 and granularity != "partition"):
        raise TaskgroveError(
            f'partitions={partitions} with granularity "{granularity}"; expected at least one, and '
            'more than one only with granularity "partition".'
        )
