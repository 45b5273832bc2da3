"""Model stock: the average of the models, drawn towards the base as far as their angle tells.

Jang, Yun, Han, "Model Stock: All we need is just a few fine-tuned models", ECCV 2024, arXiv
2403.19522. Models tuned with different seeds lie around a centre that is better than each of them;
the point nearest to that centre, on the line from the base to their average, follows from the angle
between their task vectors alone.

    cos theta = mean over pairs of models i < j of <tau_i, tau_j> / (|tau_i| |tau_j|)
    t   = N cos theta / (1 + (N - 1) cos theta)
    w_H = t w_avg + (1 - t) w_0  =  w_0 + t sum_k tau_k / N

    w_0, w_H: [number]; tau: [model number]; N: models; theta, t: of the tensor

Differs from the paper: nothing for cos theta >= 0. Below, where its geometry no longer holds (t
would be negative, or unbounded), cos theta counts as 0, so the tensor stays the base's; so it does
where a task vector is 0, which has no angle.
"""

from dataclasses import dataclass
from itertools import combinations

import numpy as np

from taskgrove.merging.static.static import Array, At, Blocks, Seen, Static
from taskgrove.shapes import Float


@dataclass(frozen=True)
class Parameters:
    """Of model stock: none."""


def ratio(blocks: Blocks, parameters: Parameters) -> Seen:  # noqa: ARG001
    """t [], from the inner products of all pairs."""
    N = blocks.models
    total = sum(blocks.map(_inner), np.zeros((N, N)))
    norm = np.sqrt(np.diag(total))
    pairs = [(i, j) for i, j in combinations(range(N), 2) if norm[i] and norm[j]]
    cosines = [float(total[i, j] / norm[i] / norm[j]) for i, j in pairs]
    cos = min(1.0, max(0.0, sum(cosines) / (N * (N - 1) / 2)))
    return {"t": np.array(N * cos / (1 + (N - 1) * cos))}


def _inner(base: Array, deltas: Array, at: At) -> Float[Array, "model model"]:  # noqa: ARG001
    """<tau_i, tau_j> for i <= j, in a block."""
    tau = deltas.astype(np.float64)
    found = np.zeros((len(tau), len(tau)))
    for i in range(len(tau)):
        for j in range(i, len(tau)):
            found[i, j] = np.einsum("n,n->", tau[i], tau[j])
    return found


def model_stock(
    base: Float[Array, " number"],
    deltas: Float[Array, "model number"],
    parameters: Parameters,  # noqa: ARG001
    at: At,
) -> Float[Array, " number"]:
    """One merged block."""
    return base + deltas.sum(axis=0) * (float(at.seen["t"]) / len(deltas))


METHOD = Static(
    "the average, drawn to the base by the models' angle (Jang et al. 2024)",
    Parameters,
    model_stock,
    look=ratio,
    passes=2,
    models=(2, None),
)
