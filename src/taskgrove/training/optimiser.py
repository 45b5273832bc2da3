"""AdamW over a model's parameters, with its state as named tensors.

Decoupled Weight Decay Regularization, Loshchilov, Hutter, ICLR 2019, arXiv 1711.05101. No decay on
vectors (biases, norms) and on what a weighting learns. A parameter without a gradient does not
move.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from taskgrove.balancing import Balancer
from taskgrove.balancing.task_sam import TaskSAM
from taskgrove.sharing.model import MultiTaskModel
from taskgrove.training.options import Options
from taskgrove.training.slots import SlotAdamW


def adamw(
    model: MultiTaskModel, balancer: Balancer | TaskSAM, options: Options, pretrained: bool
) -> SlotAdamW:
    """Groups: trunks, heads, attached parts, the weighting's parameters; `peak` is a group's
    highest rate."""
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
    groups += _attached(model, options)
    learned = [p for module in balancer.modules for p in module.parameters()]
    groups.append({"params": learned, "peak": head_rate, "weight_decay": 0.0})
    groups = [group for group in groups if group["params"]]
    return SlotAdamW(groups, lr=trunk_rate, betas=(0.9, 0.999), foreach=True)


def _attached(model: MultiTaskModel, options: Options) -> list[dict[str, Any]]:
    """Groups of the parts attached to a trunk: by rate, decay, and whether a task has a slice."""
    if model.sharing is None:
        return []
    stacked = model.sharing.stacked()
    alike: dict[tuple[float, float, bool], list[nn.Parameter]] = {}
    for name, parameter in model.sharing.named_parameters():
        if parameter.requires_grad:
            decay = options.weight_decay if model.sharing.decays(name) else 0.0
            rate = options.sharing_rate * model.sharing.rate_of(name)
            alike.setdefault((rate, decay, name in stacked), []).append(parameter)
    return [
        {"params": mine, "peak": rate, "weight_decay": decay, "slots": slots}
        for (rate, decay, slots), mine in alike.items()
    ]


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
