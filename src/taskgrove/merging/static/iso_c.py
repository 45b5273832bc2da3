"""Iso-C: the summed task matrix with all its directions made equally strong.

Marczak, Magistri, Cygert, Twardowski, Bagdanov, van de Weijer, "No Task Left Behind: Isotropic
Model Merging with Common and Task-Specific Subspaces", ICML 2025, arXiv 2502.04959. A sum of task
matrices has a few strong directions, which a few tasks own; a flat spectrum serves all tasks.

    sum_k tau_k = U diag(sigma) V^T
    theta = theta_0 + alpha mean(sigma) U V^T

    theta_0, theta, tau_k: [row column]; sigma: [rank], mean over all of them

Other tensors (vectors, convolutions, vocabularies): theta_0 + alpha mean_k tau_k, as the released
code. Differs from the paper: where the sum has a lower rank than its shape (LoRA), only its own
directions are flattened, since the others are chance. alpha is to be chosen on labelled validation
rows. Memory: about 7 copies of the largest layer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np

from taskgrove.merging.static.singular import layers, svd
from taskgrove.merging.static.static import Array, At, Static
from taskgrove.merging.static.tsv import scaled_mean
from taskgrove.shapes import Float


@dataclass(frozen=True)
class Parameters:
    """Of Iso-C."""

    scale: Annotated[float, "alpha: of the merged task matrix."] = 1.0


def iso_c(
    base: Float[Array, "row column"],
    deltas: Sequence[Array],
    parameters: Parameters,
    at: At,
) -> Float[Array, "row column"]:
    """One merged matrix."""
    total = np.zeros_like(base)
    for k in range(len(deltas)):
        total += deltas[k]
    U, sigma, V = svd(total, at.name)
    if not len(sigma):
        return base
    return base + parameters.scale * sigma.mean() * (U @ V)


METHOD = Static(
    "the summed task matrix with a flat spectrum (Marczak et al. 2025)",
    Parameters,
    iso_c,
    takes="matrix",
    matrix=layers,
    otherwise=scaled_mean,
)
