"""How LibMTL can take a step of a case, with its own weighting and architecture classes.

Its `Trainer` asks for a GPU by name, so the model is put together here as `Trainer` does it: a
class with both bases. Three repairs without which it does not run on today's torch: a stand-in for
`torchvision.models.utils` (gone from torchvision; only pre-trained weights need it); `zero_grad`
keeps its zeros, since `_reset_grad` writes into `.grad`; the device is the CPU. UPGrad and Nash-MTL
are not in the version on the registry; of what it has, these three are right for any K.
"""

# pyright: reportMissingImports=false

import random
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from cases import Case
from measure import Step
from torch import nn

Way = Callable[[Case], Step]


def classes() -> tuple[Any, dict[str, Any]]:
    """Its architecture and its weightings."""
    for name in ("torchvision", "torchvision.models", "torchvision.models.utils"):
        sys.modules[name] = ModuleType(name)
    setattr(sys.modules["torchvision.models.utils"], "load_state_dict_from_url", None)  # noqa: B010
    from LibMTL.architecture import HPS
    from LibMTL.weighting import IMTL, MGDA, PCGrad

    return HPS, {"MGDA": MGDA, "PCGrad": PCGrad, "IMTL": IMTL}


class Repeated(nn.Module):
    """The trunk, its features listed once a task, so that LibMTL goes back through it once."""

    def __init__(self, trunk: nn.Module, tasks: int) -> None:
        super().__init__()
        self.trunk, self.tasks = trunk, tasks

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [self.trunk(x)] * self.tasks


def model_of(case: Case, weighting: str, listed: bool) -> Any:
    """HPS with a weighting, over the case's own trunk and heads."""
    architecture, weightings = classes()

    class Model(architecture, weightings[weighting]):
        def zero_grad_share_params(self) -> None:
            self.encoder.zero_grad(set_to_none=False)

    names = [str(task) for task in range(case.tasks)]
    model = Model(
        task_name=names,
        encoder_class=lambda: Repeated(case.trunk, case.tasks) if listed else case.trunk,
        decoders=nn.ModuleDict(dict(zip(names, case.heads, strict=True))),
        rep_grad=case.level == "features",
        multi_input=case.own,
        device=torch.device("cpu"),
    )
    model.init_param()
    return model


def way(weighting: str, one_tensor: bool = True, listed: bool = False) -> Way:
    """`one_tensor`: the losses in one vector, as `Trainer` gives them; else a list of scalars."""

    def make(case: Case) -> Step:
        random.seed(0)
        model = model_of(case, weighting, listed)
        named = list(enumerate(model.task_name))

        def step() -> None:
            if case.own:
                found = {name: model(case.inputs[t], name)[name] for t, name in named}
            else:
                found = model(case.inputs[0])
            losses = [nn.functional.mse_loss(found[name], case.targets[t]) for t, name in named]
            if one_tensor:
                vector = torch.zeros(case.tasks)
                for task, loss in enumerate(losses):
                    vector[task] = loss
                losses = vector
            model.backward(losses, mgda_gn="none")

        return step

    return make


def ways(case: Case) -> dict[str, Way]:
    """The ways that fit a case; `Trainer`'s first."""
    if case.every > 1:
        return {}
    if case.level == "features":
        return {
            "IMTL": way("IMTL"),
            "IMTL, features listed": way("IMTL", listed=True),
            "MGDA, features listed": way("MGDA", listed=True),
        }
    return {
        "IMTL": way("IMTL"),
        "MGDA, list of losses": way("MGDA", one_tensor=False),
        "PCGrad, list of losses": way("PCGrad", one_tensor=False),
    }
