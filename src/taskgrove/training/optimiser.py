"""AdamW over a model's parameters, with its state as named tensors.

Decoupled Weight Decay Regularization, Loshchilov, Hutter, ICLR 2019, arXiv 1711.05101. No decay on
vectors (biases, norms) and on what a weighting learns. A parameter without a gradient does not
move.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from taskgrove.balancing import Balancer
from taskgrove.balancing.task_sam import TaskSAM
from taskgrove.sharing.model import MultiTaskModel
from taskgrove.training.options import Options


def adamw(
    model: MultiTaskModel, balancer: Balancer | TaskSAM, options: Options, pretrained: bool
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
    learned = [p for module in balancer.modules for p in module.parameters()]
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


def groups_of(optimiser: torch.optim.Optimizer) -> dict[nn.Parameter, int]:
    """The place of each parameter's group."""
    groups = enumerate(optimiser.param_groups)
    return {parameter: place for place, group in groups for parameter in group["params"]}


@contextmanager
def only(
    optimiser: torch.optim.Optimizer,
    parameters: Sequence[nn.Parameter],
    places: Mapping[nn.Parameter, int],
) -> Iterator[None]:
    """Within the block the optimiser knows these parameters alone; `places`: see `groups_of`.

    A step then costs nothing for the heads of absent tasks, of which there may be thousands.
    """
    groups = optimiser.param_groups
    whole = [group["params"] for group in groups]
    try:
        for group in groups:
            group["params"] = []
        for parameter in parameters:
            groups[places[parameter]]["params"].append(parameter)
        yield
    finally:
        for group, full in zip(groups, whole, strict=True):
            group["params"] = full
