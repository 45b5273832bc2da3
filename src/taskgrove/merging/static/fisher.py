"""Fisher merging: the mean of the models, each number weighted by how sure its model is of it.

Matena, Raffel, "Merging Models with Fisher-Weighted Averaging", NeurIPS 2022, arXiv 2111.09832. A
model's posterior is taken for a Gaussian around its weights with the Fisher information as its
precision; the merged weights have the greatest joint probability.

    F_k = mean_x E_{y ~ p(y|x, theta_k)} (grad log p(y|x, theta_k))^2
    theta = sum_k lambda_k F_k theta_k / sum_k lambda_k F_k
          = theta_0 + sum_k lambda_k F_k tau_k / sum_k lambda_k F_k

    theta_0, theta: [number]; tau, F: [model number]; lambda: [model], all 1 unless given

Where no model's F is above 0 nothing can be preferred, and the mean by lambda is taken (the
released code has a floor of 1e-6 under F instead, which is above most F of a large model).
`normalise` divides each F by its norm over the whole model first, so that lambda alone says which
model counts more. No base is needed.
"""

from dataclasses import dataclass
from typing import Annotated

import numpy as np

from taskgrove.errors import TaskgroveError
from taskgrove.merging.static.static import Array, At, Blocks, Over, Seen, Static
from taskgrove.shapes import Float


@dataclass(frozen=True)
class Parameters:
    """Of Fisher merging."""

    weights: Annotated[tuple[float, ...] | None, "lambda, one a model; all 1 if left out."] = None
    normalise: Annotated[bool, "Divide each Fisher by its norm over the model."] = False

    def __post_init__(self) -> None:
        if self.weights is not None and (min(self.weights) < 0 or not sum(self.weights)):
            raise TaskgroveError(
                f"weights are {list(self.weights)}; expected numbers from 0 on, not all 0."
            )


def norms(blocks: Blocks, parameters: Parameters) -> Seen:
    """||F_k|| over the model; 1 where it is not asked for."""
    if not parameters.normalise:
        return {}
    found = blocks.map(lambda base, deltas, at: _squares(at.beside["fisher"]))  # noqa: ARG005
    total = np.sqrt(np.sum(list(found), axis=0))
    if not total.all():
        raise TaskgroveError(
            f"the Fisher of tuned model {int(np.argmin(total)) + 1} is all 0, so it cannot be"
            " normalised: compute it again on rows that the model can read."
        )
    return {"norm": total}


def fisher(
    base: Float[Array, " number"],
    deltas: Float[Array, "model number"],
    parameters: Parameters,
    at: At,
) -> Float[Array, " number"]:
    """One merged block."""
    F = at.beside["fisher"]
    if F.size and F.min() < 0:
        raise TaskgroveError(
            f'a Fisher of "{at.name}" is below 0; expected squares of gradients, as'
            " `taskgrove merge-statistics fisher` writes them."
        )
    lam = np.asarray(parameters.weights or [1.0] * len(F))
    weight = lam[:, None] * F  # [model number], float64
    if "norm" in at.seen:
        weight /= at.seen["norm"][:, None]
    total = weight.sum(0)
    mean = np.where(total > 0, np.einsum("kn,kn->n", weight, deltas), lam @ deltas)
    mean /= np.where(total > 0, total, lam.sum())
    return base + mean.astype(base.dtype)


def _squares(F: Float[Array, "model number"]) -> Float[Array, " model"]:
    return np.einsum("kn,kn->k", F, F, dtype=np.float64)


def _over(parameters: Parameters) -> Over:
    return "model" if parameters.normalise else "tensor"


METHOD = Static(
    "the mean weighted by each number's Fisher information (Matena & Raffel 2022)",
    Parameters,
    fisher,
    look=norms,
    over=_over,
    whole=("normalise",),
    base="optional",
    beside=("fisher",),
)
