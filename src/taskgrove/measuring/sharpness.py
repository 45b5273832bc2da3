"""Sharpness: by how much a loss rises within a small step up its gradient.

Sharpness-Aware Minimization for Efficiently Improving Generalization, Foret, Kleiner, Mobahi,
Neyshabur, ICLR 2021, arXiv 2010.01412.

    sharpness = L(w + rho g / |g|) - L(w),  g = grad L(w)

First order: rho |g|. It depends on how weights are scaled: compare models of one architecture.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from taskgrove.balancing.ascent import climbed, uphill


def sharpness(
    loss_of: Callable[[], Tensor], parameters: Sequence[nn.Parameter], rho: float = 0.1
) -> float:
    """The rise; weights are left as they were.

    >>> w = nn.Parameter(torch.tensor([3.0, 4.0]))
    >>> round(sharpness(lambda: w.square().sum(), [w], 1.0), 4)  # 6^2 - 5^2
    11.0
    """
    loss = loss_of()
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    g = {p: v for p, v in zip(parameters, found, strict=True) if v is not None}
    with climbed(uphill(g, rho)), torch.no_grad():
        return loss_of().item() - loss.item()
