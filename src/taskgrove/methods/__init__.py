"""The methods that `compare` and `train` know by name, in groups; each is a row of a table."""

from collections.abc import Iterable
from functools import partial

from taskgrove.balancing import BALANCERS
from taskgrove.balancing.task_sam import Flat
from taskgrove.errors import TaskgroveError, did_you_mean, listed
from taskgrove.methods.features_experts import KINDS, features_experts
from taskgrove.methods.joint import joint
from taskgrove.methods.merged import adaptive, arithmetic, average, ties_merging
from taskgrove.methods.method import Job, Method, Outcome
from taskgrove.methods.sam_mtl import sam_mtl
from taskgrove.methods.scaled import VARIANTS, scaled
from taskgrove.methods.shared import shared
from taskgrove.methods.single import single
from taskgrove.sharing.table import CHOICES

# not methods of their own here: `mean` is `joint`; so is `fixed` without weights, as the tasks
# file's weights count as shares; `sum` is K times the mean, which Adam does not see
JOINT = {"mean", "sum", "fixed"}
BASELINES: dict[str, Method] = {
    "single": Method("one model per task; what the others are measured against", single),
    "joint": Method("one shared trunk, the mean of the tasks' losses", joint),
}
BALANCING: dict[str, Method] = {
    name: Method(choice.about, partial(joint, balancer=name), name)
    for name, choice in BALANCERS.items()
    if name not in JOINT
} | {"sam_mtl": Method("each task climbs first, then CAGrad (Phan et al. 2022)", sam_mtl, Flat())}
MERGING: dict[str, Method] = {
    "weight_average": Method(
        "the mean of the single models' weights (Wortsman et al. 2022)", average
    ),
    "task_arithmetic": Method(
        "the sum of their task vectors, scale chosen on validation (Ilharco et al. 2023)",
        arithmetic,
    ),
    "ties": Method("task vectors trimmed, signs elected (Yadav et al. 2023)", ties_merging),
    "adamerging": Method(
        "a scale per task and layer, learned from unlabelled inputs (Yang et al. 2024)", adaptive
    ),
}
# these need trained adapters first, so they are no methods by themselves
STAGED = {"scaled_adapters", "adapter_fusion"}
SHARING: dict[str, Method] = (
    {
        name: Method(choice.about, partial(shared, name=name), rules=[("*", choice())])
        for name, choice in CHOICES.items()
        if name not in STAGED
    }
    | {
        name: Method(choice.about, partial(scaled, name=name), rules=[("*", choice)])
        for name, choice in VARIANTS.items()
    }
    | {
        name: Method(choice.about, partial(features_experts, name=name), rules=[("*", choice)])
        for name, choice in KINDS.items()
    }
)
METHODS: dict[str, Method] = {**BASELINES, **BALANCING, **MERGING, **SHARING}
DEFAULT = ("single", "joint", "uncertainty", "pcgrad", *MERGING)
GROUPS: dict[str, tuple[str, ...]] = {
    "default": DEFAULT,
    "balancing": ("joint", *BALANCING),
    "merging": tuple(MERGING),
    "sharing": ("joint", *SHARING),
    "all": tuple(METHODS),
}


def chosen(names: Iterable[str]) -> list[str]:
    """Methods by name or group, each once, in the order given.

    >>> chosen(["joint", "merging", "ties"])
    ['joint', 'weight_average', 'task_arithmetic', 'ties', 'adamerging']
    """
    found: list[str] = []
    for name in names:
        if name not in METHODS and name not in GROUPS:
            hint = did_you_mean(name, [*METHODS, *GROUPS])
            raise TaskgroveError(
                f'there is no method "{name}"; there are {listed(METHODS, 40)}, and the groups'
                f" {listed(GROUPS)}.{hint}"
            )
        found += GROUPS.get(name, (name,))
    return list(dict.fromkeys(found))


__all__ = ["DEFAULT", "GROUPS", "METHODS", "Job", "Method", "Outcome", "chosen"]
