"""SAM: sharpness-aware minimisation of one loss, the strongest simple rival of `task_sam`.

Sharpness-Aware Minimization for Efficiently Improving Generalization, Foret, Kleiner, Mobahi,
Neyshabur, ICLR 2021, arXiv 2010.01412.

Idea: descend by the gradient taken where the loss is worst nearby, so that the weights settle where
the loss is low all around.

    eps = rho g / |g|,  g = grad L(w);      d = grad L(w + eps)

Symbols: w, g, eps, d [parameter]; L the mean of the tasks' losses by share; one eps for all tasks.
Cost: two forward and two backward passes, whatever the number of tasks.
Use it when labels are noisy or few, and before any sharpness-aware method of many tasks.
Tuned sums do as well when labels are clean and plenty: a rho too large then costs accuracy.
Differs from the paper: nothing; the second evaluation repeats the first one's dropout.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from taskgrove.balancing.apply import add
from taskgrove.balancing.ascent import again, climbed, noise, uphill


def sam(
    loss_of: Callable[[], Tensor],
    parameters: Sequence[nn.Parameter],
    rho: float = 0.1,
    buffers: Sequence[Tensor] = (),
) -> Tensor:
    """Adds d to `.grad`; returns L(w). `buffers`: running statistics, those of w are kept."""
    before = noise()
    loss = loss_of()
    g = _gradient(loss, parameters)
    with again(before, buffers), climbed(uphill(g, rho)):
        d = _gradient(loss_of(), parameters)
    add(d)
    return loss.detach()


def _gradient(loss: Tensor, parameters: Sequence[nn.Parameter]) -> dict[nn.Parameter, Tensor]:
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    return {p: g for p, g in zip(parameters, found, strict=True) if g is not None}
