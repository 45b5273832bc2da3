"""Model Breadcrumbs: of each tensor's changes, neither the small ones nor the outliers.

Davari, Belilovsky, "Model Breadcrumbs: Scaling Multi-Task Model Merging with Sparse Masks", ECCV
2024, arXiv 2312.06795. Small changes are noise and very large ones belong to one task's
peculiarities; so each tensor of each task vector keeps only the magnitudes between two ranks, and
the rest is task arithmetic.

    m_k   = 1 where |tau_k| is above the share beta and within the share gamma of the tensor's
            magnitudes, counted from the smallest; else 0
    theta = theta_0 + alpha sum_k m_k tau_k

    theta_0, theta: [number]; tau, m: [model number]; beta < gamma: shares of the tensor's n numbers

Where the paper is silent: round(beta n) are dropped below and round((1 - gamma) n) above, fewer if
several have exactly the magnitude at either edge (these are all kept, so the order of numbers never
matters), and at least one number stays. Differs from the paper: nothing else.
"""

from dataclasses import dataclass
from typing import Annotated

import numpy as np

from taskgrove.errors import TaskgroveError
from taskgrove.merging.static.selection import largest
from taskgrove.merging.static.static import Array, At, Blocks, Seen, Static
from taskgrove.shapes import Float


@dataclass(frozen=True)
class Parameters:
    """Of Model Breadcrumbs."""

    beta: Annotated[float, "Share of the smallest changes that are dropped."] = 0.85
    gamma: Annotated[float, "Share above which the largest are dropped, above beta."] = 0.993
    scale: Annotated[float, "alpha: of the summed task vectors."] = 0.3

    def __post_init__(self) -> None:
        if not 0 <= self.beta < self.gamma <= 1:
            raise TaskgroveError(
                f"beta is {self.beta} and gamma {self.gamma}; expected 0 <= beta < gamma <= 1, such"
                " as 0.85 and 0.993, which keep what lies between these shares."
            )


def edges(blocks: Blocks, parameters: Parameters) -> Seen:
    """low, high [model]: the smallest and the largest magnitude that each model keeps."""
    n = blocks.size
    most = min(n, round((1 - parameters.gamma) * n) + 1)  # its rank, counted from the largest
    least = max(most, n - round(parameters.beta * n))
    found = largest(blocks, [least] * blocks.models + [most] * blocks.models)
    return {"low": found[: blocks.models], "high": found[blocks.models :]}


def breadcrumbs(
    base: Float[Array, " number"],
    deltas: Float[Array, "model number"],
    parameters: Parameters,
    at: At,
) -> Float[Array, " number"]:
    """One merged block."""
    size = np.abs(deltas)
    m = size >= at.seen["low"][:, None]
    m &= size <= at.seen["high"][:, None]
    return base + parameters.scale * np.einsum("kn,kn->n", deltas, m)


METHOD = Static(
    "the sum of task vectors without small changes and outliers (Davari & Belilovsky 2023)",
    Parameters,
    breadcrumbs,
    look=edges,
    passes=2,
)
