"""TIES-Merging: trim, elect sign, merge.

Yadav, Tam, Choshen, Raffel, Bansal, "TIES-Merging: Resolving Interference When Merging Models",
NeurIPS 2023, arXiv 2306.01708. Small changes and changes of opposite sign cancel each other when
task vectors are averaged; so drop the small ones, let the total mass elect a sign for every
coordinate, and average only the models that agree with it.

    trim:   that_k = tau_k where |tau_k| >= r_k, else 0      r_k: the (density P)-th largest |tau_k|
    elect:  gamma  = sgn(sum_k that_k)
    keep:   tilde_k = that_k where sgn(that_k) = gamma, else 0
    merge:  theta = theta_0 + lambda sum_k tilde_k / #{k: tilde_k != 0}          (0 / 0 = 0)

    theta_0, theta, gamma: [number]; tau, that, tilde: [model number]; r: [model];
    P: numbers of the whole model (trim="model", the paper) or of the tensor (trim="tensor")

Where the paper is silent: max(1, round(density P)) numbers are kept, more only if several have
exactly the magnitude r_k; then all of these are kept, so the order of numbers never matters.
Differs from the released code: that keeps one number more; and where a sum is exactly 0 it elects
the sign that most numbers of the model have, while here, as the equations say, nothing is kept.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np

from taskgrove.errors import TaskgroveError
from taskgrove.merging.static.selection import largest
from taskgrove.merging.static.static import Array, At, Blocks, Seen, Static
from taskgrove.shapes import Bool, Float


@dataclass(frozen=True)
class Parameters:
    """Of TIES."""

    density: Annotated[float, "Share of numbers that each model keeps, above 0, at most 1."] = 0.2
    scale: Annotated[float, "lambda: of the merged task vector."] = 1.0
    trim: Annotated[Literal["model", "tensor"], "Over what the share is counted."] = "model"

    def __post_init__(self) -> None:
        density_within(self.density)


def density_within(density: float) -> None:
    """A share of numbers to keep."""
    if not 0 < density <= 1:
        raise TaskgroveError(
            f"density is {density}; expected the share of numbers to keep, above 0 and at most 1,"
            " such as 0.2."
        )


def thresholds(blocks: Blocks, parameters: Parameters) -> Seen:
    """r [model]: the smallest magnitude that each model keeps."""
    keep = max(1, round(parameters.density * blocks.size))
    return {"r": largest(blocks, [keep] * blocks.models)}


def elected_mean(
    that: Float[Array, "model number"], scale: float, r: Float[Array, " model"] | None = None
) -> Float[Array, " number"]:
    """lambda sum_k tilde_k / #{k: tilde_k != 0}; r trims first."""
    kept, gamma = agreeing(that, r)
    total = np.einsum("kn,kn->n", that, kept)
    count = kept.sum(axis=0, dtype=np.min_scalar_type(len(kept)))
    np.maximum(count, 1, out=count)
    total *= scale / count.astype(that.dtype)
    total *= gamma != 0
    return total


def agreeing(
    that: Float[Array, "model number"], r: Float[Array, " model"] | None = None
) -> tuple[Bool[Array, "model number"], Float[Array, " number"]]:
    """Where tilde is not 0, if gamma is not; and gamma.

    A number whose sign bit is turned over where gamma is negative is at least r > 0 if and only
    if it is large enough and agrees.
    """
    least = np.zeros(len(that)) if r is None else r
    least = np.maximum(least.astype(that.dtype), np.finfo(that.dtype).smallest_subnormal)[:, None]
    gamma = that.sum(axis=0) if r is None else np.einsum("kn,kn->n", that, np.abs(that) >= least)
    bits = np.dtype(f"u{that.itemsize}")
    sign = gamma.view(bits) & bits.type(1 << (8 * bits.itemsize - 1))
    turned = (that.view(bits) ^ sign).view(that.dtype)
    return turned >= least, gamma


def ties(
    base: Float[Array, " number"],
    deltas: Float[Array, "model number"],
    parameters: Parameters,
    at: At,
) -> Float[Array, " number"]:
    """One merged block."""
    return base + elected_mean(deltas, parameters.scale, at.seen["r"])


METHOD = Static(
    "task vectors trimmed, a sign elected for each number (Yadav et al. 2023)",
    Parameters,
    ties,
    look=thresholds,
    over=lambda parameters: parameters.trim,
    whole=("density", "trim"),
    passes=2,
)
