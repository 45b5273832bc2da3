"""Linearised model: its tangent at the base, where task vectors add up without interfering.

Ortiz-Jimenez, Favero, Frossard, "Task Arithmetic in the Tangent Space", NeurIPS 2023, arXiv
2305.12827; as a variant of aTLAS, arXiv 2407.02880.

    f_lin(x; theta) = f(x; theta_0) + J(x; theta_0) (theta - theta_0)

    f: logits [batch class]; the product with the Jacobian J is one forward-mode pass (jvp)

A wrapper of `forward`, so any learned merge can use it; weights found with it are for it: fold them
only if the plain model does well with them too. Difference from the papers: nothing.
"""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from taskgrove.merging.learned.vectors import Vectors

Inputs = TypeVar("Inputs")
Forward = Callable[[dict[str, Tensor], str, Inputs], Tensor]


def linearised(forward: Forward[Inputs], vectors: Vectors) -> Forward[Inputs]:
    """`forward` made linear in the merged weights; it must allow forward-mode differentiation."""
    theta_0 = {name: vectors.base(name) for name in vectors.names}

    def tangent(weights: dict[str, Tensor], task: str, inputs: Inputs) -> Tensor:
        at = {name: w.to(weights[name].dtype) for name, w in theta_0.items()}
        rest = {name: w for name, w in weights.items() if name not in at}
        tau = {name: weights[name] - w for name, w in at.items()}
        both = torch.func.jvp(lambda at: forward({**rest, **at}, task, inputs), (at,), (tau,))
        return both[0] + both[1]

    return tangent
