"""Task arithmetic: add the task vectors, scaled by one number.

Ilharco et al., "Editing Models with Task Arithmetic", ICLR 2023, arXiv 2212.04089. What fine-tuning
added for each task is added to one model; a negative scale subtracts it (forgetting).

    theta = theta_0 + lambda sum_k tau_k

    theta_0, theta: [...]; tau: [model ...]; lambda: a number, chosen on validation rows
    (0.3 is the usual value for eight models; 1/K gives the weight average)

Difference from the paper: nothing.
"""

import math
from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor

from taskgrove.errors import TaskgroveError
from taskgrove.merging.task_vector import apply, models_in, wide


def task_arithmetic_tensor(
    base: Float[Tensor, "*shape"], deltas: Float[Tensor, "model *shape"], scale: float = 0.3
) -> Float[Tensor, "*shape"]:
    """One merged tensor, not yet rounded to the base's dtype."""
    return wide(base) + finite_scale(scale) * deltas.sum(dim=0)


def task_arithmetic(
    base: Mapping[str, Tensor],
    deltas: Mapping[str, Float[Tensor, "model ..."]],
    scale: float = 0.3,  # lambda
) -> dict[str, Tensor]:
    """A merged model."""
    models_in(base, deltas)
    merged = {n: task_arithmetic_tensor(base[n], tau, scale) for n, tau in deltas.items()}
    return apply(base, merged)


def finite_scale(scale: float) -> float:
    """The scale itself, if it is a finite number."""
    if not math.isfinite(scale):
        raise TaskgroveError(f"scale is {scale}; expected a finite number such as 0.3.")
    return scale
