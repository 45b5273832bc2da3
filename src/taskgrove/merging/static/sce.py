"""SCE: select what varies between models, calculate their weights from it, erase minority signs.

Wan, Zhong, Yang, Chen, Quan, "FuseChat: Knowledge Fusion of Chat Models", 2024, arXiv 2408.07990;
used again for FuseChat-3.0, arXiv 2503.04222. Numbers on which the models differ most carry what
sets them apart; a model that changed a tensor more there deserves more weight in it.

    select:     that_k = tau_k where Var_k(tau) is among the tensor's (density n) largest, else 0
    calculate:  eta_k  = sum_n that_k^2 / sum_j sum_n that_j^2
    erase:      tilde_k = that_k where sgn(that_k) = sgn(sum_j that_j), else 0
    merge:      theta  = theta_0 + scale sum_k eta_k tilde_k / sum_{k: tilde_k != 0} eta_k
                (0 / 0 = 0)

    theta_0, theta: [number]; tau, that, tilde: [model number]; eta: [model], of the tensor;
    Var_k: over models, divided by their number; n: numbers of the tensor

Where the paper is silent: max(1, round(density n)) numbers are selected, more only if several have
exactly the smallest variance that is. As in the authors' released code, the weights of the models
that agree on a number are normalised there. Differs from it: that counts the share of the
numbers whose variance is not 0. The scale is ours; theirs is 1.
"""

from dataclasses import dataclass
from typing import Annotated

import numpy as np

from taskgrove.merging.static.selection import largest
from taskgrove.merging.static.static import Array, At, Blocks, Seen, Static
from taskgrove.merging.static.ties import agreeing, density_within
from taskgrove.shapes import Float


@dataclass(frozen=True)
class Parameters:
    """Of SCE."""

    density: Annotated[float, "Share of a tensor's numbers that is selected."] = 0.1
    scale: Annotated[float, "Of the merged task vector."] = 1.0

    def __post_init__(self) -> None:
        density_within(self.density)


def variance(
    base: Float[Array, " number"],  # noqa: ARG001
    deltas: Float[Array, "model number"],
) -> Float[Array, "1 number"]:
    """Over models."""
    apart = deltas - deltas.mean(axis=0)
    return np.einsum("kn,kn->n", apart, apart)[None] / len(deltas)


def select_and_calculate(blocks: Blocks, parameters: Parameters) -> Seen:
    """least []: the smallest variance that is selected; eta [model]."""
    keep = max(1, round(parameters.density * blocks.size))
    least = largest(blocks, [keep], variance)

    def squared(base: Array, deltas: Array, at: At) -> Float[Array, " model"]:  # noqa: ARG001
        that = deltas[:, variance(base, deltas)[0] >= least].astype(np.float64)
        return np.einsum("kn,kn->k", that, that)

    total = sum(blocks.map(squared), np.zeros(blocks.models))
    all_ = total.sum()
    return {"least": least, "eta": total / all_ if all_ else np.ones(blocks.models) / blocks.models}


def sce(
    base: Float[Array, " number"],
    deltas: Float[Array, "model number"],
    parameters: Parameters,
    at: At,
) -> Float[Array, " number"]:
    """One merged block."""
    selected = np.flatnonzero(variance(base, deltas)[0] >= at.seen["least"])
    that = deltas[:, selected]
    stays, gamma = agreeing(that)
    stays &= gamma != 0
    eta = at.seen["eta"].astype(that.dtype)
    weight = np.einsum("k,kn->n", eta, stays)
    weight[weight == 0] = 1
    result = base.copy()
    result[selected] += np.einsum("k,kn,kn->n", eta, that, stays) / weight * parameters.scale
    return result


METHOD = Static(
    "what varies most, weighted by its size, without minority signs (Wan et al. 2024)",
    Parameters,
    sce,
    look=select_and_calculate,
    passes=3,
)
