"""Few-shot composition: aTLAS on a handful of labelled rows, or the base where that does not help.

Zhang, Albert, Rodriguez-Opazo, van den Hengel, Abbasnejad, NeurIPS 2024, arXiv 2407.02880, with the
vectors of *other* tasks (see vector_selection.others) on k shots per class. A pool that is not
related can end below the base; so, first, cross-validation on the shots compares the two.

    fold f of F:  lam_f learned without the fold's shots, scored on them; theta_0 scored on the same
    composed if the folds' mean score is above the base's (at equal scores: if its loss is lower)

    shots: [row]; folds hold every class as evenly as they can; score: accuracy for classes, else
    minus the loss

Differences from the paper: the cross-validation and falling back to the base are ours; the rate
falls along a cosine as there, over steps instead of epochs.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from taskgrove.errors import TaskgroveError
from taskgrove.merging.learned.atlas import FEW_SHOT, Composed, Forward, Scaling, Tell, compose
from taskgrove.merging.learned.learn import State, Weights, finished
from taskgrove.merging.learned.rounds import drawn
from taskgrove.merging.learned.scaled_merge import ScaledMerge
from taskgrove.merging.learned.vectors import Vectors
from taskgrove.objectives.supervised import LOSSES

Inputs = TypeVar("Inputs")
HELD_OUT = "held_out"  # in the state: [composed/base score/loss], once it is known


@dataclass(frozen=True)
class Shots(Generic[Inputs]):
    """Labelled rows of the target."""

    inputs: Callable[[Int[Tensor, " row"], int], Inputs]  # (rows, step) -> inputs; may augment
    targets: Tensor  # [row ...]
    kind: str = "classes"


def few_shot(
    forward: Forward[Inputs],  # called with task "target"
    vectors: Vectors,  # of other tasks
    shots: Shots[Inputs],
    batch: int = 48,
    folds: int = 4,  # 0: compose without asking whether it helps
    scaling: Scaling = FEW_SHOT,
    resume: State | None = None,
    progress: Tell | None = None,
) -> Composed:
    """A model for a target task with few labelled rows."""
    rows = torch.arange(len(shots.targets))
    if folds and not 2 <= folds <= len(rows):
        raise TaskgroveError(
            f"folds={folds} with {len(rows)} shots; expected 2 to {len(rows)}, or 0 to compose "
            "without cross-validation."
        )
    held_out = None
    if folds:
        held_out = (resume or {}).get(HELD_OUT)
        if held_out is None:
            held_out = _cross_validated(forward, vectors, shots, batch, folds, scaling)
        if not _helps(held_out):
            return _base(vectors, scaling, held_out)

    def tell(state: State) -> None:
        if progress:
            progress(state if held_out is None else {**state, HELD_OUT: held_out})

    found = _fit(forward, vectors, shots, rows, batch, scaling, resume, tell)
    return found if held_out is None else replace(found, notes=(_words(held_out),))


def _fit(
    forward: Forward[Inputs],
    vectors: Vectors,
    shots: Shots[Inputs],
    rows: Int[Tensor, " row"],
    batch: int,
    scaling: Scaling,
    resume: State | None = None,
    progress: Tell | None = None,
) -> Composed:
    def losses(weights: Weights, step: int) -> list[Tensor]:
        some = drawn(rows, step, batch, scaling.seed)
        outputs = forward(weights, "target", shots.inputs(some, step))
        return [LOSSES[shots.kind](outputs, shots.targets[some].to(outputs.device)).mean()]

    return compose(vectors, ("target",), losses, scaling, None, resume, progress)


def _cross_validated(
    forward: Forward[Inputs],
    vectors: Vectors,
    shots: Shots[Inputs],
    batch: int,
    folds: int,
    scaling: Scaling,
) -> Float[Tensor, "2 2"]:
    """[composed/base score/loss], means over all shots."""
    fold = _folds(shots, folds, scaling.seed)
    total = torch.zeros(2, 2, dtype=torch.float64)
    for f in range(folds):
        held, kept = (fold == f).nonzero()[:, 0], (fold != f).nonzero()[:, 0]
        composed = _fit(forward, vectors, shots, kept, batch, scaling).weights
        total[0] += _worth(forward, composed, shots, held, batch)
        del composed
        base = ScaledMerge(vectors, "task", 0.0, None).weights()
        total[1] += _worth(forward, base, shots, held, batch)
    return (total / len(fold)).float()


def _folds(shots: Shots[Inputs], folds: int, seed: int) -> Int[Tensor, " row"]:
    """Shuffled rows dealt out in turn, class after class."""
    order = drawn(torch.arange(len(shots.targets)), 0, len(shots.targets), seed)
    if shots.kind == "classes":
        order = order[shots.targets[order].argsort(stable=True)]
    fold = torch.empty_like(order)
    fold[order] = torch.arange(len(order)) % folds
    return fold


@torch.no_grad()
def _worth(
    forward: Forward[Inputs], weights: Weights, shots: Shots[Inputs], rows: Tensor, batch: int
) -> Float[Tensor, "2"]:
    """Sums of score and loss over rows."""
    total = torch.zeros(2, dtype=torch.float64)
    for some in rows.split(batch):
        outputs = forward(weights, "target", shots.inputs(some, 0)).cpu()
        loss = LOSSES[shots.kind](outputs, shots.targets[some].cpu())
        right = (
            outputs.argmax(-1) == shots.targets[some].cpu() if shots.kind == "classes" else -loss
        )
        total += torch.stack([right.double().sum(), loss.double().sum()])
    return total


def _helps(held_out: Float[Tensor, "2 2"]) -> bool:
    (score, loss), (base_score, base_loss) = held_out.tolist()
    return score > base_score or (score == base_score and loss < base_loss)


def _base(vectors: Vectors, scaling: Scaling, held_out: Float[Tensor, "2 2"]) -> Composed:
    merge = ScaledMerge(
        vectors, scaling.granularity, 0.0, None, partitions=scaling.partitions, seed=scaling.seed
    )
    return Composed(
        weights=finished(merge),
        coefficients=merge.scales().detach(),
        tensors=merge.names,
        losses=torch.zeros(0, 1),
        scores=torch.zeros(0),
        notes=(f"{_words(held_out)}: the base is handed out as it is",),
        state={HELD_OUT: held_out},
    )


def _words(held_out: Float[Tensor, "2 2"]) -> str:
    (score, loss), (base_score, base_loss) = held_out.tolist()
    return (
        f"cross-validation on the shots: composed {score:.3f} (loss {loss:.3f}), base "
        f"{base_score:.3f} (loss {base_loss:.3f})"
    )
