"""DELLA: like DARE, but small changes are dropped more often than large ones of their row.

Deep, Bhardwaj, Poria, "DELLA-Merging: Reducing Interference in Model Merging through
Magnitude-Based Sampling", 2024, arXiv 2406.11617. Each output neuron's changes are ranked by
magnitude and dropped with a probability that falls with the rank; what stays is divided by its own
chance to stay, then merged as TIES does.

    r_i    = the place of |delta_i| in its row, 0 for the largest ... n - 1 for the smallest
    p_i    = p_min + epsilon r_i / n,   p_min = p - epsilon / 2,   p = 1 - density
    m_i    ~ Bernoulli(p_i);   dhat_i = (1 - m_i) delta_i / (1 - p_i)
    theta  = theta_0 + lambda sum_k tilde_k / #{k: tilde_k != 0}
             tilde_k = dhat_k where sgn(dhat_k) = sgn(sum_j dhat_j), else 0

    theta_0, theta: [row n]; delta, dhat, tilde: [model row n]; m, p, r: one a number of a row

A tensor's first axis counts rows; a vector is one row. Where the paper is silent: of equal
magnitudes the later one counts as larger. Differs from the paper: nothing; in mergekit epsilon is
half of what it is here.
"""

from dataclasses import dataclass
from typing import Annotated

import numpy as np

from taskgrove.errors import TaskgroveError
from taskgrove.merging.static.random_numbers import WORD, random_numbers
from taskgrove.merging.static.static import Array, At, Static
from taskgrove.merging.static.ties import density_within, elected_mean
from taskgrove.shapes import Float, Int


@dataclass(frozen=True)
class Parameters:
    """Of DELLA."""

    density: Annotated[float, "1 - p: share of numbers that stay on average."] = 0.3
    epsilon: Annotated[float, "How far apart the chances of a row's numbers are."] = 0.2
    scale: Annotated[float, "lambda: of the merged task vector."] = 1.0
    seed: Annotated[int, "Of the masks."] = 0
    rescale: Annotated[bool, "Divide what stays by its chance to stay."] = True

    def __post_init__(self) -> None:
        density_within(self.density)
        most = 2 * min(self.density, 1 - self.density)
        if self.density < 1 and not 0 <= self.epsilon <= most:
            raise TaskgroveError(
                f"epsilon is {self.epsilon}; expected 0 to {most:g}, so that all chances lie"
                f" between 0 and 1 at density {self.density}."
            )


def ascending(row: Float[Array, "row n"]) -> Int[Array, "row n"]:
    """Where each row's magnitudes are, the smallest first; of equal ones the earlier first."""
    if row.dtype != np.float32:
        return np.argsort(np.abs(row), axis=1, kind="stable")
    code = np.abs(row).view(np.uint32).astype(np.uint64)  # orders as the magnitudes do
    code <<= np.uint64(32)
    code |= np.arange(row.shape[1], dtype=np.uint64)
    code.sort(axis=1)
    return code.view("<u4")[:, ::2].astype(np.intp)


def chances(parameters: Parameters, n: int) -> Float[Array, " n"]:
    """1 - p of a row's numbers, the smallest first."""
    if parameters.density == 1:
        return np.ones(n)
    r = np.arange(n)[::-1]
    p_min = 1 - parameters.density - parameters.epsilon / 2
    return 1 - (p_min + parameters.epsilon * r / n)


def sampled(
    delta: Float[Array, "row n"], k: int, parameters: Parameters, at: At
) -> Float[Array, "row n"]:
    """dhat of one model (MagPrune)."""
    stay = chances(parameters, delta.shape[1])
    most = np.clip(np.rint(stay * WORD), 1, WORD) - 1  # random numbers up to this one stay
    order = ascending(delta) + np.arange(len(delta))[:, None] * delta.shape[1]  # in all rows
    drawn = random_numbers(parameters.seed, k, at.name, at.start, delta.size)
    stays = drawn.take(order) <= most.astype(np.uint32)
    dhat = np.empty_like(delta)
    factor = (1 / stay if parameters.rescale else np.ones_like(stay)).astype(delta.dtype)
    dhat.reshape(-1)[order] = stays * factor
    dhat *= delta
    return dhat


def della(
    base: Float[Array, "row n"],
    deltas: Float[Array, "model row n"],
    parameters: Parameters,
    at: At,
) -> Float[Array, "row n"]:
    """Merged rows."""
    dhat = np.stack([sampled(delta, k, parameters, at) for k, delta in enumerate(deltas)])
    mean = elected_mean(dhat.reshape(len(deltas), -1), parameters.scale)
    return base + mean.reshape(base.shape)


METHOD = Static(
    "task vectors thinned by magnitude within rows, a sign elected (Deep et al. 2024)",
    Parameters,
    della,
    takes="rows",
)
