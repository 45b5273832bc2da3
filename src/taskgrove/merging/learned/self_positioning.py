"""Self Positioning: gradient descent finds where between the task vectors a merged model sits.

Li, Nie, Zhang, Long, Zhang, Xie, "Improving General Text Embedding Model: Tackling Task Conflict
and Data Imbalance through Model Merging", 2024, arXiv 2410.15035. Joint training of an embedding
model suffers from conflicting tasks and unequal data; so tune one model per task, then learn an
interpolation of their task vectors on a small probe set with as many rows of each task.

    theta(a, m) = theta_0 + m sum_k w_k tau_k        w = softmax(a), m >= 0; see scaled_merge
    min_{a, m}  mean_t L_t(theta(a, m)) / s_t + beta ||theta(a, m) - theta_0||

    a, w: [model]; m: []; L_t: the task's own loss on a batch of its probe rows [];
    s_t = 1, or with relative=True L_t(theta_0), so that no task weighs more for its loss's size

||theta - theta_0||^2 = m^2 w' G w with the vectors' Gramian G [model model], computed once.
m = 1 is an interpolation of the models, their average at the start; m = K with equal w the sum of
the task vectors. Probe rows must be other rows than those that measure the result.
Differences from the paper: its code is not public; the separate scale m, the norm's weight and
Adam's settings are our reading of it. relative=True is ours.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from taskgrove.errors import TaskgroveError
from taskgrove.merging.learned.learn import Course, State, Weights, finished, learn
from taskgrove.merging.learned.scaled_merge import ScaledMerge
from taskgrove.merging.learned.vectors import Vectors, gram

FIRST = 4  # batches of each task that tell its loss at the base
LITTLE = 0.1  # of an even share: a weight below it is worth a note

Inputs = TypeVar("Inputs")


@dataclass(frozen=True)
class Positioned:
    """What a run of Self Positioning leaves."""

    weights: Weights
    w: Float[Tensor, " model"]  # sums to 1
    m: float
    tasks: tuple[str, ...]
    losses: Float[Tensor, "step task"]  # L_t before each step
    scores: Float[Tensor, " look"]  # of `validate`, if given
    notes: tuple[str, ...]
    state: State  # after the last step; `resume` continues from it


def self_positioning(
    loss: Callable[[Weights, str, Inputs], Float[Tensor, ""]],  # (weights, task, inputs) -> L_t
    vectors: Vectors,
    probe: Mapping[str, Callable[[int], Inputs]],  # task -> (step -> a batch of its probe rows)
    steps: int = 30,
    learning_rate: float = 0.03,
    beta: float = 0.0,
    init: float = 1.0,  # m at the start
    relative: bool = False,
    validate: Callable[[Weights], float] | None = None,  # larger is better; keeps the best position
    every: int = 5,
    models: Sequence[str] = (),  # their names, for notes
    resume: State | None = None,
    progress: Callable[[State], None] | None = None,
) -> Positioned:
    """Merges. `loss` must be deterministic: the step is the only seed."""
    if beta < 0:
        raise TaskgroveError(f"beta is {beta}; expected 0 or more.")
    merge = ScaledMerge(vectors, "task", init, None, "simplex+scale")
    tasks = tuple(probe)
    s = _at_the_base(loss, vectors, probe) if relative else dict.fromkeys(tasks, 1.0)

    def losses(weights: Weights, step: int) -> Iterator[Tensor]:
        for task, draw in probe.items():
            yield loss(weights, task, draw(step)) / (s[task] * len(tasks))

    distance = _distance(gram(vectors)) if beta else None
    course = Course(
        steps,
        learning_rate,
        penalty=None if distance is None else lambda merge: beta * distance(merge),
        validate=validate,
        every=every,
    )
    state = learn(merge, tasks, losses, course, resume, progress)
    c = merge.scales().detach()
    w = merge.coefficients.detach().softmax(dim=0)
    return Positioned(
        weights=finished(merge),
        w=w,
        m=c.sum().item(),
        tasks=tasks,
        losses=state["curve"] * torch.tensor([s[task] for task in tasks]) * len(tasks),
        scores=state["scores"],
        notes=_notes(w, c.sum().item(), models),
        state=state,
    )


def _distance(products: Float[Tensor, "model model"]) -> Callable[[ScaledMerge], Tensor]:
    """||theta - theta_0|| as a function of the coefficients, differentiable also at 0."""
    tiny = torch.finfo(products.dtype).tiny

    def distance(merge: ScaledMerge) -> Float[Tensor, ""]:
        c = merge.scales().to(products)
        return (c @ products @ c).clamp(min=tiny).sqrt()

    return distance


@torch.no_grad()
def _at_the_base(
    loss: Callable[[Weights, str, Inputs], Tensor],
    vectors: Vectors,
    probe: Mapping[str, Callable[[int], Inputs]],
) -> dict[str, float]:
    theta_0 = ScaledMerge(vectors, "task", 0.0, None).weights()
    found = {
        task: sum(loss(theta_0, task, draw(step)).item() for step in range(FIRST)) / FIRST
        for task, draw in probe.items()
    }
    if none := {task: value for task, value in found.items() if not value > 0}:
        raise TaskgroveError(f"losses at the base are {none}; expected above 0, or relative=False.")
    return found


def _notes(w: Float[Tensor, " model"], m: float, models: Sequence[str]) -> tuple[str, ...]:
    if m == 0:
        return ("the scale fell to 0: on the probe, the base alone does best",)
    names = models or [f"model {k}" for k in range(1, len(w) + 1)]
    return tuple(
        f'"{name}" weighs {share:.3f}: it does not help here, and a simplex cannot say how much it '
        "hurts"
        for name, share in zip(names, w.tolist(), strict=True)
        if share < LITTLE / len(w)
    )
