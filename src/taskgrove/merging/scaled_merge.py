"""Scaled merge: task vectors times learned coefficients, the part that learned merges share.

AdaMerging (arXiv 2310.02575), aTLAS (arXiv 2407.02880). The merged weights are made leaves of the
graph, so a loss gives one gradient per weight tensor; the chain rule then turns it into
the coefficients' gradients by inner products, without keeping K scaled copies for autograd.

    theta^l    = theta_0^l + sum_k c(lam_k^l) tau_k^l              c: clamp to the bounds
    dL/dlam_k^l = <dL/dtheta^l, tau_k^l>  if low <= lam_k^l <= high, else 0    (as torch.clamp)

    theta_0^l, theta^l: [...]; tau^l: [model ...]; lam: [model tensor], or [model] with
    granularity="task" (one coefficient for all tensors of a model: sum the products over l)

A step: `W = merge.weights()`; `backward()` on losses of W; `merge.backward_from(W's gradients)`.
Memory beside the base and the task vectors: W and one gradient per tensor, for any number of
tasks. Difference from the papers: nothing but the order of computation. The base and the deltas
are held, not copied; they are no parameters or buffers, so `state_dict` is the coefficients.
BatchNorm's running statistics take no gradient (torch has none): with granularity="tensor" their
coefficients stay at `init`; re-estimate the statistics after the merge.
"""

import math
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from taskgrove.errors import TaskgroveError, did_you_mean
from taskgrove.merging.task_vector import STATISTICS, apply, models_in, wide

GRANULARITIES = ("task", "tensor")


class ScaledMerge(nn.Module):
    """Coefficients over task vectors; every named tensor has its own unless granularity="task"."""

    def __init__(
        self,
        base: Mapping[str, Tensor],
        deltas: Mapping[str, Float[Tensor, "model ..."]],
        granularity: str = "tensor",
        init: float = 0.3,
        bounds: tuple[float, float] | None = (0.0, 1.0),
    ) -> None:
        super().__init__()
        _check(granularity, init, bounds)
        models = models_in(base, deltas)
        self.base, self.deltas = base, deltas
        self.names = tuple(deltas)  # the columns of the coefficients
        self.bounds = bounds or (-math.inf, math.inf)
        shape = (models, len(self.names)) if granularity == "tensor" else (models,)
        device = deltas[self.names[0]].device
        self.coefficients = nn.Parameter(torch.full(shape, float(init), device=device))

    def scales(self) -> Float[Tensor, "model *tensor"]:
        """c(lam): the coefficients in force."""
        return self.coefficients.clamp(*self.bounds)

    @torch.no_grad()
    def weights(self) -> dict[str, Tensor]:
        """theta: a full set of weights whose merged tensors are new leaves that take gradients."""
        c = self.scales().view(len(self.coefficients), -1).expand(-1, len(self.names))
        merged = {
            name: wide(self.base[name]) + torch.tensordot(c_l, self.deltas[name], dims=1)
            for name, c_l in zip(self.names, c.unbind(dim=1), strict=True)
        }
        whole = apply(self.base, merged)
        for name in self.names:
            whole[name].requires_grad_(not name.endswith(STATISTICS))
        return whole

    @torch.no_grad()
    def backward_from(self, weight_grads: Mapping[str, Tensor | None]) -> None:
        """Adds dL/dlam to `coefficients.grad`, given dL/dtheta by name (None or absent: zero)."""
        lam = self.coefficients
        products = torch.stack([self._product(n, weight_grads.get(n)) for n in self.names], dim=1)
        gradient = products if lam.ndim == 2 else products.sum(dim=1)  # [model tensor] or [model]
        low, high = self.bounds
        gradient = torch.where((lam >= low) & (lam <= high), gradient, 0)
        lam.grad = gradient if lam.grad is None else lam.grad + gradient

    def _product(self, name: str, gradient: Tensor | None) -> Float[Tensor, " model"]:
        tau = self.deltas[name]
        if gradient is None:
            return tau.new_zeros(len(tau))
        return torch.tensordot(tau, gradient.to(tau.dtype), dims=gradient.ndim)


def _check(granularity: str, init: float, bounds: tuple[float, float] | None) -> None:
    if granularity not in GRANULARITIES:
        raise TaskgroveError(
            f'granularity is "{granularity}"; expected "task" or "tensor".'
            f"{did_you_mean(granularity, GRANULARITIES)}"
        )
    if not math.isfinite(init):
        raise TaskgroveError(f"init is {init}; expected a finite number such as 0.3.")
    if bounds is not None and not bounds[0] <= init <= bounds[1]:
        raise TaskgroveError(
            f"init is {init}, outside the bounds {bounds}, where a coefficient has no gradient; "
            "expected a value within them."
        )
