"""Cross-stitch: a network a task, whose layers read mixtures of all networks' states.

"Cross-stitch Networks for Multi-task Learning", Misra et al., CVPR 2016, arXiv 1604.03539.

    x_t^l = layer_t^l(sum_u alpha_tu^l x_u^(l-1))

Symbols: x_t [batch ... dim] the state of task t's network; alpha [task task], learned, `same` on
the diagonal and (1 - same) / (T - 1) beside it to begin with: rows sum to 1.
Differs from the paper: one alpha a unit, not one a channel (the authors' rows share what is learned
from few labels). A row of any task runs through all T networks, which is what the method costs.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from taskgrove.errors import TaskgroveError


class CrossStitch(nn.Module):
    """`networks`: for each task its layers, in order, each a module of one tensor; units stand
    between them and after the last."""

    def __init__(self, networks: Sequence[Sequence[nn.Module]], same: float = 0.9) -> None:
        super().__init__()
        depths = {len(layers) for layers in networks}
        if len(networks) < 2 or len(depths) != 1:
            raise TaskgroveError(
                f"cross-stitch needs two or more networks with as many layers, not"
                f" {[len(layers) for layers in networks]}"
            )
        self.networks = nn.ModuleList(nn.ModuleList(layers) for layers in networks)
        count = len(networks)
        start = torch.full((count, count), (1 - same) / (count - 1)).fill_diagonal_(same)
        self.alpha = nn.Parameter(start.repeat(depths.pop(), 1, 1))  # [layer task task]

    def forward(self, x: Tensor) -> Float[Tensor, "task batch dim"]:
        """The features of all networks for one input."""
        states = [x] * len(self.networks)
        for depth, alpha in enumerate(self.alpha):
            run = [net[depth](s) for net, s in zip(self.networks, states, strict=True)]  # pyright: ignore
            states = list(stitch(torch.stack(run), alpha))
        return torch.stack(states)


def stitch(
    states: Float[Tensor, "task *rest"], alpha: Float[Tensor, "task task"]
) -> Float[Tensor, "task *rest"]:
    """sum_u alpha_tu x_u for each task t."""
    return torch.tensordot(alpha, states, 1)
