"""aTLAS: knowledge composition by learned anisotropic scaling of task vectors.

Zhang, Albert, Rodriguez-Opazo, van den Hengel, Abbasnejad, "Knowledge Composition using Task
Vectors with Learned Anisotropic Scaling", NeurIPS 2024, arXiv 2407.02880. A target model is the
base plus other models' task vectors, each named tensor of each with its own coefficient; only
these few numbers are trained, from 0, without bounds, on a few rows.

    theta^l = theta_0^l + sum_i lam_i^l tau_i^l       (aTLAS x K: lam_i^lp, see partition)
    addition   min_lam  sum_t CE_t(theta) + gamma ||lam||_p          t: the vectors' own tasks
    negation   min_lam  -CE_target(theta) + CE_control(theta)        tau: the target's own vector
    few shots  min_lam  CE(theta) on the shots                       see few_shot
    no labels  min_lam  the FixMatch-like loss of objectives/pseudo_label          see adapt

    lam: [model tensor] (granularity="tensor"), [model tensor part], or [model]: the isotropic
    baseline; CE: mean over a batch (logistic or squared error for other kinds of target)

AdamW with weight decay on lam, which pulls towards the base, and a clipped gradient. Each Adam step
moves a coefficient by about the learning rate, so learning_rate x steps must reach where it should
end. Differences from the paper: these presets, for heads and rows of a small size (the paper's
settings beside them), and what few_shot says.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from taskgrove.errors import TaskgroveError
from taskgrove.merging.learned.learn import Course, Losses, State, Weights, finished, learn
from taskgrove.merging.learned.scaled_merge import ScaledMerge
from taskgrove.merging.learned.vectors import Vectors
from taskgrove.objectives.supervised import LOSSES

KEPT = 0.95  # of the base's control score that a negation must keep

Inputs = TypeVar("Inputs")
Forward = Callable[[Weights, str, Inputs], Tensor]  # (weights, task, inputs) -> outputs
Labelled = Callable[[int], tuple[Inputs, Tensor]]  # step -> (inputs, targets)
Tell = Callable[[State], None]


@dataclass(frozen=True)
class Scaling:
    """How the coefficients look and how they are trained."""

    steps: int = 40
    learning_rate: float = 3e-2
    granularity: str = "tensor"  # or "partition", or "task": isotropic
    partitions: int = 1
    seed: int = 0
    cosine: bool = False
    weight_decay: float = 0.1
    clip: float | None = 1.0
    gamma: float = 0.0  # of ||lam||_p
    p: int = 1
    every: int = 10  # steps between two validations


ADDITION = Scaling()  # paper: 1e-3, 20 epochs, batches of 128 over all tasks
NEGATION = Scaling()  # paper: 1e-3 times 2 to 10 by data set, 2 to 20 epochs
FEW_SHOT = Scaling(steps=30, learning_rate=0.1, cosine=True)  # paper: 1e-1, cosine, 10 epochs
TEST_TIME = Scaling(steps=40, learning_rate=1e-2)  # paper: 1e-3, 10 epochs


@dataclass(frozen=True)
class Composed:
    """What a run of aTLAS leaves."""

    weights: Weights
    coefficients: Float[Tensor, "model *tensor"]
    tensors: tuple[str, ...]  # names of the coefficients' columns
    losses: Float[Tensor, "step task"]
    scores: Float[Tensor, " look"]  # of `validate`, the base first
    notes: tuple[str, ...]
    state: State  # after the last step; `resume` continues from it

    @property
    def trained(self) -> int:
        """How many numbers were."""
        return self.coefficients.numel()


def addition(
    forward: Forward[Inputs],
    vectors: Vectors,
    labelled: Mapping[str, Labelled[Inputs]],
    kinds: Mapping[str, str],  # task -> "classes", "labels" or "number"
    scaling: Scaling = ADDITION,
    validate: Callable[[Weights], float] | None = None,  # larger is better; keeps the best
    resume: State | None = None,
    progress: Tell | None = None,
) -> Composed:
    """One model for several tasks from labelled rows of each, which no model was tuned on."""
    if missing := [task for task in labelled if kinds.get(task) not in LOSSES]:
        raise TaskgroveError(
            f'task "{missing[0]}" is of kind {kinds.get(missing[0])}; expected one of '
            f"{', '.join(LOSSES)}."
        )

    def losses(weights: Weights, step: int) -> Iterator[Tensor]:
        for task, draw in labelled.items():
            inputs, targets = draw(step)
            yield LOSSES[kinds[task]](forward(weights, task, inputs), targets).mean()

    return compose(vectors, tuple(labelled), losses, scaling, validate, resume, progress)


def negation(
    forward: Forward[Inputs],
    vectors: Vectors,  # the target's own
    target: Labelled[Inputs],
    control: Labelled[Inputs],
    measure: Callable[[Weights], tuple[float, float]],  # scores (target, control) on other rows
    scaling: Scaling = NEGATION,
    resume: State | None = None,
    progress: Tell | None = None,
) -> Composed:
    """Forgets the classes task "target", keeping "control".

    Of all looks at `measure`, the one with the lowest target score among those that keep 95 % of
    the base's control score is handed out.
    """
    start = ScaledMerge(vectors, init=0.0, bounds=None).weights()
    with torch.no_grad():
        least = KEPT * measure(start)[1]
    del start

    def validate(weights: Weights) -> float:
        forgotten, kept = measure(weights)
        return -forgotten if kept >= least else -torch.inf

    def losses(weights: Weights, step: int) -> Iterator[Tensor]:
        for task, draw, sign in (("target", target, -1), ("control", control, 1)):
            inputs, targets = draw(step)
            yield sign * LOSSES["classes"](forward(weights, task, inputs), targets).mean()

    return compose(vectors, ("target", "control"), losses, scaling, validate, resume, progress)


def compose(
    vectors: Vectors,
    tasks: tuple[str, ...],
    losses: Losses,
    scaling: Scaling,
    validate: Callable[[Weights], float] | None = None,
    resume: State | None = None,
    progress: Tell | None = None,
) -> Composed:
    """Any losses over learned coefficients: what the four uses share."""
    s = scaling
    merge = ScaledMerge(vectors, s.granularity, 0.0, None, partitions=s.partitions, seed=s.seed)
    norm = (lambda merge: s.gamma * merge.coefficients.norm(p=s.p)) if s.gamma else None
    course = Course(
        s.steps, s.learning_rate, s.cosine, s.weight_decay, s.clip, norm, validate, s.every
    )
    state = learn(merge, tasks, losses, course, resume, progress)
    return Composed(
        weights=finished(merge),
        coefficients=merge.scales().detach(),
        tensors=merge.names,
        losses=state["curve"],
        scores=state["scores"],
        notes=(),
        state=state,
    )
