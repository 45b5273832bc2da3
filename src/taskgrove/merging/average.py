"""Weight average: the mean of the tuned models.

Wortsman et al., "Model soups", ICML 2022, arXiv 2203.05482 (uniform soup); as a baseline of merging
between tasks: Ilharco et al. 2023, arXiv 2212.04089. Models tuned from one base often lie in one
basin, where their mean is as good as an ensemble at the cost of one model.

    theta = theta_0 + (1/K) sum_k tau_k  =  (1/K) sum_k theta_k

    theta_0, theta: [...]; tau: [model ...]; K: number of models

Difference from the paper: nothing (the mean is taken of the task vectors, so that a tensor no model
changed stays exactly the base's).
"""

from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor

from taskgrove.merging.task_vector import apply, models_in, wide


def weight_average_tensor(
    base: Float[Tensor, "*shape"], deltas: Float[Tensor, "model *shape"]
) -> Float[Tensor, "*shape"]:
    """One merged tensor, not yet rounded to the base's dtype."""
    return wide(base) + deltas.mean(dim=0)


def weight_average(
    base: Mapping[str, Tensor], deltas: Mapping[str, Float[Tensor, "model ..."]]
) -> dict[str, Tensor]:
    """A merged model."""
    models_in(base, deltas)
    return apply(base, {n: weight_average_tensor(base[n], tau) for n, tau in deltas.items()})
