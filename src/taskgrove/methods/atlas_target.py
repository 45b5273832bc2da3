"""The target of aTLAS on disk: its classes, its frozen head, what the composed trunk answers.

the base's own head    where the base is a classifier that has all the target's classes
else the label texts   logits = 20 cos(mean of the last layer's tokens, embedded class name);
                       see tasks/label_text_head; embedded once, by the base
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.func import functional_call

from taskgrove.errors import TaskgroveError
from taskgrove.merging.learned.disk_vectors import DiskVectors
from taskgrove.methods.learned_family import Family, Member, member_of
from taskgrove.methods.learned_rows import Inputs, tokenised
from taskgrove.methods.learned_skeleton import CLASSIFIER, architecture, skeleton_of
from taskgrove.tasks.label_text_head import LabelTextHead, label_text_head
from taskgrove.tasks.readers import read

Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class Target:
    """`predict(weights, inputs)`: logits [row class]; `W`: a label-text head's, [class dim]."""

    classes: tuple[str, ...]
    own: Member | None  # the base as a classifier
    predict: Callable[[Weights, Inputs], Tensor]
    W: Tensor | None


def target_of(base: Path, family: Family, classes: Sequence[str], length: int) -> Target:
    """The target's head, from the base alone."""
    if architecture(base).endswith(CLASSIFIER):
        own = member_of("target", base, skeleton_of(base), family.base, family.trunk.entries)
        known = {str(name): int(n) for name, n in (own.config.label2id or {}).items()}
        if own.kind == "classes" and own.head and set(classes) <= set(known):
            names = tuple(sorted(known, key=lambda name: known[name]))
            return Target(names, own, own.forward, None)
    if len(classes) < 2:
        raise TaskgroveError(
            f"the target has the classes {list(classes)}; expected two or more: give rows of each, "
            "or --classes A B, or a base that is a classifier of them."
        )
    names = tuple(classes)
    first = family.members[0]

    def states(weights: Weights, inputs: Inputs) -> Tensor:
        """[row dim]: means of the last layer's real tokens."""
        given = ({**weights, **first.head}, (), {**inputs, "output_hidden_states": True})
        z = functional_call(first.module, *given).hidden_states[-1]  # [row token dim]
        real = inputs["attention_mask"][..., None].to(z)
        return (z * real).sum(1) / real.sum(1).clamp(min=1)

    theta_0 = DiskVectors(family.trunk, family.tuned).whole({})

    def embed(texts: list[str]) -> Tensor:
        found = tokenised([texts], base, first.config, length)
        return states(theta_0, found.batch(torch.arange(len(texts))))

    head: LabelTextHead = label_text_head(embed, names)
    return Target(names, None, lambda weights, inputs: head(states(weights, inputs)), head.W)


def classes_in(file: Path, column: str) -> list[str]:
    """The classes that a column names, in order of the alphabet."""
    cells = read(str(file), {column: "string"}).table.column(column).to_pylist()
    return sorted({cell for cell in cells if cell})
