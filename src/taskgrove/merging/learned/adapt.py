"""Adaptation without labels: aTLAS on the inputs that the model is to be used on.

Zhang, Albert, Rodriguez-Opazo, van den Hengel, Abbasnejad, NeurIPS 2024, arXiv 2407.02880 (test-
time adaptation), with the vectors of *other* tasks (see vector_selection.others). The base's surest
predictions are trusted as labels, the composed model's nearly certain ones count as they arise.

    trusted: the min(N / C / 10, 100) inputs of each class that theta_0 is surest of
    step:    half a batch of trusted inputs, half of others; loss: see objectives/pseudo_label

    N inputs, C classes. Difference from the paper: the caller says what the views are.
"""

from collections.abc import Callable
from typing import TypeVar

import torch
from jaxtyping import Int
from torch import Tensor

from taskgrove.merging.learned.atlas import TEST_TIME, Composed, Forward, Scaling, Tell, compose
from taskgrove.merging.learned.learn import State, Weights
from taskgrove.merging.learned.rounds import drawn
from taskgrove.merging.learned.scaled_merge import ScaledMerge
from taskgrove.merging.learned.vectors import Vectors
from taskgrove.objectives.pseudo_label import NONE, fixmatch_loss, trusted_topk

Inputs = TypeVar("Inputs")
Views = Callable[[Int[Tensor, " row"], int], Inputs]  # (rows, step) -> their inputs


def adapt(
    forward: Forward[Inputs],  # called with task "target"
    vectors: Vectors,  # of other tasks
    weak: Views[Inputs],  # rows as they are, or nearly
    strong: Views[Inputs],  # the same rows, changed more
    rows: int,  # N
    batch: int = 32,
    threshold: float = 0.99,
    scaling: Scaling = TEST_TIME,
    resume: State | None = None,
    progress: Tell | None = None,
) -> Composed:
    """A model for the inputs of a classes task."""
    labels = _trusted(forward, vectors, weak, rows, batch)
    streams = [(labels != NONE).nonzero()[:, 0], (labels == NONE).nonzero()[:, 0]]

    def losses(weights: Weights, step: int) -> list[Tensor]:
        some = torch.cat([drawn(s, step, batch // 2, scaling.seed) for s in streams if len(s)])
        with torch.no_grad():
            certain = forward(weights, "target", weak(some, step))
        changed = forward(weights, "target", strong(some, step))
        return [fixmatch_loss(certain, changed, labels[some].to(changed.device), threshold)]

    return compose(vectors, ("target",), losses, scaling, None, resume, progress)


@torch.no_grad()
def _trusted(
    forward: Forward[Inputs], vectors: Vectors, weak: Views[Inputs], rows: int, batch: int
) -> Int[Tensor, " row"]:
    start = ScaledMerge(vectors, "task", 0.0, None).weights()
    logits = [forward(start, "target", weak(some, 0)) for some in torch.arange(rows).split(batch)]
    p = torch.cat(logits).float().softmax(dim=1).cpu()  # [row class]
    return trusted_topk(p, max(1, min(rows // p.shape[1] // 10, 100)))
