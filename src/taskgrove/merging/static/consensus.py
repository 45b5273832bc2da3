"""Consensus merging: numbers that matter to too few tasks stay the base's (TALL masks).

Wang, Dimitriadis, Ortiz-Jimenez, Fleuret, Frossard, "Localizing Task Information for Improved Model
Merging and Compression", ICML 2024, arXiv 2405.07813. A task needs a number of the summed task
vector where its own change is large against what the others add to it; numbers that one task alone
needs ("selfish") or none ("catastrophic") harm the rest, so only those that at least k need stay.

    tau_MTL = sum_t tau_t
    m_t     = 1 where |tau_t| >= lambda_t |tau_MTL - tau_t|, else 0
    theta   = theta_0 + alpha tau_MTL 1[sum_t m_t >= k]

    theta_0, theta, tau_MTL: [number]; tau, m: [model number]; lambda: one number, or one a model

Differs from the paper: tau_MTL is the sum of task arithmetic, not also that of TIES; lambda is
given where the paper picks each from 0.2 to 0.6 on validation rows. With k = 1 only catastrophic
numbers go; with k = 0 it is task arithmetic.
"""

from dataclasses import dataclass
from typing import Annotated

import numpy as np

from taskgrove.errors import TaskgroveError
from taskgrove.merging.static.static import Array, At, Static
from taskgrove.shapes import Float


@dataclass(frozen=True)
class Parameters:
    """Of consensus merging."""

    threshold: Annotated[
        float | tuple[float, ...], "lambda: one number, or one a model; more masks more."
    ] = 0.4
    tasks: Annotated[int, "k: tasks that must need a number for it to stay."] = 2
    scale: Annotated[float, "alpha: of the summed task vector."] = 0.3

    def __post_init__(self) -> None:
        lam = np.atleast_1d(self.threshold)
        if (lam < 0).any():
            raise TaskgroveError(
                f"threshold is {self.threshold}; expected 0 or more, such as 0.2 to 0.6."
            )
        if self.tasks < 0:
            raise TaskgroveError(f"tasks is {self.tasks}; expected 0 or more, such as 2.")


def consensus(
    base: Float[Array, " number"],
    deltas: Float[Array, "model number"],
    parameters: Parameters,
    at: At,  # noqa: ARG001
) -> Float[Array, " number"]:
    """One merged block."""
    if parameters.tasks > len(deltas):
        raise TaskgroveError(
            f"tasks is {parameters.tasks}, but {len(deltas)} models are merged, so nothing of them"
            f" would stay; expected at most {len(deltas)}."
        )
    lam = np.broadcast_to(np.asarray(parameters.threshold, deltas.dtype), len(deltas))
    tau_mtl = deltas.sum(axis=0)
    needed = np.zeros(len(base), np.min_scalar_type(len(deltas)))
    for tau, lam_t in zip(deltas, lam, strict=True):
        others = tau_mtl - tau
        np.abs(others, out=others)
        others *= lam_t
        needed += np.abs(tau) >= others
    tau_mtl *= needed >= parameters.tasks
    tau_mtl *= parameters.scale
    tau_mtl += base
    return tau_mtl


METHOD = Static(
    "the summed task vector where several tasks need it (TALL masks, Wang et al. 2024)",
    Parameters,
    consensus,
)
