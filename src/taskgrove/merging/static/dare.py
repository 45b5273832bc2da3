"""DARE: drop task vectors' numbers at random and rescale the rest, then sum or elect as TIES does.

Yu, Yu, Yu, Huang, Li, "Language Models are Super Mario: Absorbing Abilities from Homologous Models
as a Free Lunch", ICML 2024, arXiv 2311.03099. Fine-tuning's changes are so redundant that most may
be dropped if the rest are enlarged, which keeps their expectation; sparse changes of several models
then seldom meet.

    m_k     ~ Bernoulli(p)                         p = 1 - density
    dhat_k  = (1 - m_k) delta_k / (1 - p)          without the division if rescale is false
    theta   = theta_0 + lambda sum_k dhat_k        combine = "sum", task arithmetic
    theta   = theta_0 + lambda sum_k tilde_k / #{k: tilde_k != 0}      combine = "ties"
              tilde_k = dhat_k where sgn(dhat_k) = sgn(sum_j dhat_j), else 0

    theta_0, theta: [number]; delta, dhat, tilde, m: [model number]

m depends on the seed, the model's place, the tensor's name and the element's index only. Differs
from the paper: in its experiments TIES also trims what DARE left; here the dropping is the trim.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np

from taskgrove.merging.static.random_numbers import least_unlikely, random_numbers
from taskgrove.merging.static.static import Array, At, Static
from taskgrove.merging.static.ties import density_within, elected_mean
from taskgrove.shapes import Bool, Float


@dataclass(frozen=True)
class Parameters:
    """Of DARE."""

    density: Annotated[float, "1 - p: share of numbers that stay, above 0, at most 1."] = 0.2
    scale: Annotated[float, "lambda: of the merged task vector."] = 0.3
    seed: Annotated[int, "Of the masks."] = 0
    rescale: Annotated[bool, "Divide what stays by the density."] = True
    combine: Annotated[Literal["sum", "ties"], "Sum them, or elect a sign and average."] = "sum"

    def __post_init__(self) -> None:
        density_within(self.density)


def kept(parameters: Parameters, at: At, models: int, count: int) -> Bool[Array, "model number"]:
    """1 - m of a block."""
    most = least_unlikely(parameters.density)
    drawn = (
        random_numbers(parameters.seed, k, at.name, at.start, count) <= most for k in range(models)
    )
    return np.stack(list(drawn))


def dare(
    base: Float[Array, " number"],
    deltas: Float[Array, "model number"],
    parameters: Parameters,
    at: At,
) -> Float[Array, " number"]:
    """One merged block."""
    stays = kept(parameters, at, *deltas.shape)
    scale = parameters.scale / (parameters.density if parameters.rescale else 1)
    if parameters.combine == "ties":
        return base + elected_mean(deltas * stays, scale)
    return base + scale * np.einsum("kn,kn->n", deltas, stays)


METHOD = Static(
    "task vectors thinned at random and rescaled, summed or elected (Yu et al. 2024)",
    Parameters,
    dare,
)
