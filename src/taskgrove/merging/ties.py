"""TIES-Merging: trim, elect sign, merge.

Yadav, Tam, Choshen, Raffel, Bansal, "TIES-Merging: Resolving Interference When Merging Models",
NeurIPS 2023, arXiv 2306.01708. Small changes and changes of opposite sign cancel each other when
task vectors are averaged; so drop the small ones, let the total mass elect a sign for every
coordinate, and average only the models that agree with it.

    trim:   that_k = tau_k where |tau_k| >= r_k, else 0      r_k: the (density P)-th largest |tau_k|
    elect:  gamma  = sgn(sum_k that_k)
    keep:   tilde_k = that_k where sgn(that_k) = gamma, else 0
    merge:  theta = theta_0 + lambda sum_k tilde_k / #{k: tilde_k != 0}          (0 / 0 = 0)

    theta_0, theta, gamma: [...]; tau, that, tilde: [model ...]; r: [model];
    P: coordinates of the whole model (trim="model", the paper) or of the tensor (trim="tensor")

Rules where the paper is silent. max(1, round(density P)) coordinates are kept, more only if several
have exactly the magnitude r_k: then all of these are kept, so the order of coordinates never
matters (difference: the released code keeps one coordinate more, and cannot keep all). Where a sum
is exactly 0, the released code, and `ties` and `clean` here, elect the sign that most coordinates
of the whole model have; a tensor function called with majority=0 drops such a coordinate.
"""

from collections.abc import Mapping
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from taskgrove.errors import TaskgroveError
from taskgrove.merging.task_arithmetic import finite_scale
from taskgrove.merging.task_vector import apply, models_in, wide

Deltas = Mapping[str, Float[Tensor, "model ..."]]


def thresholds(deltas: Deltas, density: float = 0.2) -> Float[Tensor, " model"]:
    """r: the smallest magnitude that each model keeps, over all the tensors given."""
    if not 0 < density <= 1:
        raise TaskgroveError(
            f"density is {density}; expected the share of coordinates to keep, above 0 and "
            "at most 1, such as 0.2."
        )
    total = sum(tau[0].numel() for tau in deltas.values())
    drop = total - max(1, round(density * total))
    models = len(next(iter(deltas.values())))
    if not total:
        return torch.zeros(models)
    r = []
    for k in range(models):  # one model at a time: P numbers, not K P
        magnitude = torch.cat([tau[k].abs().flatten() for tau in deltas.values()])
        r.append(magnitude.kthvalue(drop + 1).values)
    return torch.stack(r)  # [model]


def trim_tensor(
    deltas: Float[Tensor, "model *shape"], thresholds: Float[Tensor, " model"]
) -> Float[Tensor, "model *shape"]:
    """that: small changes set to 0."""
    r = thresholds.to(deltas).view(-1, *[1] * (deltas.ndim - 1))  # [model 1 ...]
    return torch.where(deltas.abs() >= r, deltas, 0)


def clean_tensor(
    deltas: Float[Tensor, "model *shape"], thresholds: Float[Tensor, " model"], majority: int = 0
) -> Float[Tensor, "model *shape"]:
    """tilde: the trimmed changes that have the elected sign, not yet summed."""
    that = trim_tensor(deltas, thresholds)
    gamma = that.sum(dim=0).sign()
    gamma = torch.where(gamma == 0, majority, gamma)
    return torch.where(that.sign() == gamma, that, 0)


def ties_tensor(
    base: Float[Tensor, "*shape"],
    deltas: Float[Tensor, "model *shape"],
    thresholds: Float[Tensor, " model"],
    majority: int = 0,
    scale: float = 1.0,
) -> Float[Tensor, "*shape"]:
    """One merged tensor, not yet rounded to the base's dtype."""
    tilde = clean_tensor(deltas, thresholds, majority)
    agreeing = (tilde != 0).sum(dim=0).clamp(min=1)
    return wide(base) + finite_scale(scale) * tilde.sum(dim=0) / agreeing


def ties(
    base: Mapping[str, Tensor],
    deltas: Deltas,
    density: float = 0.2,  # share of coordinates each model keeps
    scale: float = 1.0,  # lambda
    trim: Literal["model", "tensor"] = "model",  # over what the share is counted
) -> dict[str, Tensor]:
    """A merged model."""
    models_in(base, deltas)
    r = _limits(deltas, density, trim)
    sign = majority_sign(deltas, r)
    merged = {n: ties_tensor(base[n], tau, r[n], sign, scale) for n, tau in deltas.items()}
    return apply(base, merged)


def clean(
    deltas: Deltas, density: float = 0.2, trim: Literal["model", "tensor"] = "model"
) -> dict[str, Float[Tensor, "model ..."]]:
    """tilde of the whole model: task vectors without interference, for AdaMerging++."""
    r = _limits(deltas, density, trim)
    sign = majority_sign(deltas, r)
    return {name: clean_tensor(tau, r[name], sign) for name, tau in deltas.items()}


def majority_sign(deltas: Deltas, thresholds: Mapping[str, Float[Tensor, " model"]]) -> int:
    """The sign that most coordinates of the whole model have: 1, -1, or 0 if they balance."""
    balance = 0
    for name, tau in deltas.items():
        gamma = trim_tensor(tau, thresholds[name]).sum(dim=0).sign()
        balance += int(gamma.sum(dtype=torch.int64))
    return (balance > 0) - (balance < 0)


def _limits(deltas: Deltas, density: float, trim: str) -> dict[str, Tensor]:
    if trim == "model":
        return dict.fromkeys(deltas, thresholds(deltas, density))
    if trim == "tensor":
        return {name: thresholds({name: tau}, density) for name, tau in deltas.items()}
    raise TaskgroveError(f'trim is "{trim}"; expected "model" (as the paper) or "tensor".')
