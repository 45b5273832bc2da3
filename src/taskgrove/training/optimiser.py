"""AdamW over a model's parameters, with its state as named tensors.

Decoupled Weight Decay Regularization, Loshchilov, Hutter, ICLR 2019, arXiv 1711.05101. No decay on
vectors (biases, norms) and on what a weighting learns. A parameter without a gradient does not
move.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from taskgrove.balancing import Balancer
from taskgrove.sharing.model import MultiTaskModel
from taskgrove.training.options import Options


def adamw(
    model: MultiTaskModel, balancer: Balancer, options: Options, pretrained: bool
) -> torch.optim.AdamW:
    """Groups: trunks, heads, the weighting's parameters; `peak` is a group's highest rate."""
    trunk_rate, head_rate = options.rates(pretrained)
    groups = []
    for parameters, peak in (
        (model.trunks.parameters(), trunk_rate),
        (model.heads.parameters(), head_rate),
    ):
        trained = [p for p in parameters if p.requires_grad]
        for decayed in (True, False):
            mine = [p for p in trained if (p.ndim > 1) == decayed]
            decay = options.weight_decay if decayed else 0.0
            groups.append({"params": mine, "peak": peak, "weight_decay": decay})
    learned = [p for module in balancer.modules() for p in module.parameters()]
    groups.append({"params": learned, "peak": head_rate, "weight_decay": 0.0})
    groups = [group for group in groups if group["params"]]
    return torch.optim.AdamW(groups, lr=trunk_rate, betas=(0.9, 0.999), foreach=True)


def set_rate(optimiser: torch.optim.Optimizer, factor: float) -> None:
    """Each group's learning rate = its peak x factor."""
    for group in optimiser.param_groups:
        group["lr"] = group["peak"] * factor


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """{"number/name": tensor} of the moments and counts."""
    state = optimiser.state_dict()["state"]
    return {f"{n}/{name}": value for n, values in state.items() for name, value in values.items()}


def restore_optimiser(optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Takes `optimiser_tensors` back."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        number, name = key.split("/")
        state.setdefault(int(number), {})[name] = value
    groups = optimiser.state_dict()["param_groups"]
    optimiser.load_state_dict({"state": state, "param_groups": groups})


def clip(optimiser: torch.optim.Optimizer, largest: float) -> Tensor:
    """Scales all gradients so that their joint norm is at most `largest`; returns the norm."""
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    return nn.utils.clip_grad_norm_([p for p in parameters if p.grad is not None], largest)
