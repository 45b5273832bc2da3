"""Gradient alignment: whether tasks pull what they share the same way.

As measured in Page-Caccia et al., "Multi-Head Adapter Routing for Cross-Task Generalization",
NeurIPS 2023, arXiv 2211.03831.

    C_ij = mean over parameters p of cos(dL_i / dp, dL_j / dp)

Symbols: L_i the loss of task i on its own rows; C [task task]. A parameter on which a task has no
gradient (the A of a fresh LoRA, whose B is 0) is left out of that task's means; where none is left
C is nan. Cost: one backward pass a task; the gradients of all tasks are held at once.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def gradient_alignment(losses: Sequence[Tensor], parameters: Sequence[Tensor]) -> Tensor:
    """C of the tasks' losses, each a scalar, by the parameters that the tasks share."""
    each = [
        torch.autograd.grad(
            loss, list(parameters), retain_graph=True, allow_unused=True, materialize_grads=True
        )
        for loss in losses
    ]
    cosines = [_cosines(torch.stack([g.flatten() for g in own])) for own in zip(*each, strict=True)]
    return torch.stack(cosines).nanmean(0)


def mean_of_pairs(C: Tensor) -> float:
    """The mean of C over pairs of different tasks that have a cosine."""
    first, second = torch.triu_indices(len(C), len(C), 1)
    return float(C[first, second].nanmean())


def _cosines(G: Tensor) -> Tensor:
    """[task task] of gradients [task number]; nan where one is 0."""
    unit = G / G.norm(dim=1, keepdim=True)
    return unit @ unit.t()
