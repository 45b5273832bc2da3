"""Weight average: the mean of the models, or their weighted mean.

Wortsman et al., "Model soups", ICML 2022, arXiv 2203.05482 (uniform soup); as a baseline of merging
between tasks: Ilharco et al. 2023, arXiv 2212.04089. Models tuned from one base often lie in one
basin, where their mean is as good as an ensemble at the cost of one model.

    theta = theta_0 + sum_k w_k tau_k / sum_k w_k  =  sum_k w_k theta_k / sum_k w_k

    theta_0, theta: [number]; tau: [model number]; w: [model], all 1 unless given

Differs from the paper: nothing (the mean is taken of the task vectors, so that a tensor no model
changed stays exactly the base's). No base is needed.
"""

from dataclasses import dataclass
from typing import Annotated

import numpy as np

from taskgrove.errors import TaskgroveError
from taskgrove.merging.static.static import Array, At, Static
from taskgrove.shapes import Float


@dataclass(frozen=True)
class Parameters:
    """Of a weight average."""

    weights: Annotated[tuple[float, ...] | None, "One a model; all the same if left out."] = None
    normalise: Annotated[bool, "Divide by the sum of the weights."] = True

    def __post_init__(self) -> None:
        if self.weights is not None and self.normalise and not sum(self.weights):
            raise TaskgroveError(
                f"weights {list(self.weights)} sum to 0, so they cannot be normalised: give"
                " weights with another sum, or normalise: false."
            )


def average(
    base: Float[Array, " number"],
    deltas: Float[Array, "model number"],
    parameters: Parameters,
    at: At,  # noqa: ARG001
) -> Float[Array, " number"]:
    """One merged block."""
    w = np.asarray(parameters.weights or [1.0] * len(deltas))
    w = w / w.sum() if parameters.normalise else w
    return base + np.einsum("k,kn->n", w.astype(deltas.dtype), deltas)


METHOD = Static(
    "the mean of the models, or a weighted mean (Wortsman et al. 2022)",
    Parameters,
    average,
    base="optional",
)
