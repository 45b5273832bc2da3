"""Task arithmetic: scaled task vectors are added to the base, or subtracted from it.

Ilharco et al., "Editing Models with Task Arithmetic", ICLR 2023, arXiv 2212.04089. What fine-tuning
changed is a direction that can be added to learn a task, or subtracted to forget one.

    theta = theta_0 + sum_k lambda_k tau_k          lambda < 0: negation

    theta_0, theta: [number]; tau: [model number]; lambda: one number, or one a model

Differs from the paper: nothing. The scale is to be chosen on labelled validation rows; 0.3 to 0.4
did well in the paper for sums of many tasks.
"""

from dataclasses import dataclass
from typing import Annotated

import numpy as np

from taskgrove.merging.static.static import Array, At, Static
from taskgrove.shapes import Float


@dataclass(frozen=True)
class Parameters:
    """Of task arithmetic."""

    scale: Annotated[float | tuple[float, ...], "lambda: one number, or one a model."] = 0.3


def task_arithmetic(
    base: Float[Array, " number"],
    deltas: Float[Array, "model number"],
    parameters: Parameters,
    at: At,  # noqa: ARG001
) -> Float[Array, " number"]:
    """One merged block."""
    lam = np.broadcast_to(np.asarray(parameters.scale, deltas.dtype), len(deltas))
    return base + np.einsum("k,kn->n", lam, deltas)


METHOD = Static(
    "the scaled sum of task vectors; a negative scale forgets (Ilharco et al. 2023)",
    Parameters,
    task_arithmetic,
)
