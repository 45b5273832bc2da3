"""AdaMerging: learns the scales of task vectors from unlabelled inputs.

Yang, Wang, Shen, Liu, Guo, Wang, Tao, "AdaMerging: Adaptive Model Merging for Multi-Task Learning",
ICLR 2024, arXiv 2310.02575. The merged model should be sure of its predictions in every task; so
their entropy, which needs no labels, chooses a coefficient per model and tensor (or per model).

    min_lam  sum_t mean_{x in B_t} H(h_t(f(x; theta(lam))))      theta(lam): see scaled_merge
    AdaMerging++ (plus=True): the same on the task vectors cleaned by TIES (see cleaned)

    B_t: a batch of inputs of task t; h_t: its head, frozen; H: see objectives/entropy;
    lam: [model tensor] (granularity="tensor", as the released "layer-wise" code) or [model]

Labels cannot be reached: the function is given inputs and computes its own loss. Every step takes a
batch of every task, with one backward each, added up in the gradient of the merged weights.
Adam moves a coefficient by about the learning rate in a step, so learning_rate x steps is how far
one can travel: it must cover the way from `init` to a bound, or all end near where they began.
Paper: 1e-3 x 500 = 0.5; here 1e-2 x 40 = 0.4, enough for 0.3 -> 0 (2e-2 x 40 for 0.3 -> 1 too).
Differences from the paper: these steps; multi-label tasks, by the sum of their labels' entropies;
tasks that predict a number have no entropy and live with the coefficients the others chose.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from taskgrove.errors import TaskgroveError, did_you_mean, listed
from taskgrove.merging.learned.cleaned import CleanVectors
from taskgrove.merging.learned.learn import Course, State, Weights, finished, learn
from taskgrove.merging.learned.scaled_merge import ScaledMerge
from taskgrove.merging.learned.vectors import Vectors
from taskgrove.objectives.entropy import HAVE_ENTROPY, prediction_entropy

COLLAPSE = 0.8  # a class with a larger share of a task's predictions is worth a note
CHECKED = 8  # batches per task on which the finished model's predictions are counted

Inputs = TypeVar("Inputs")  # whatever `forward` reads: inputs, never targets


@dataclass(frozen=True)
class AdaMerged:
    """What a run of AdaMerging leaves."""

    weights: Weights  # the merged model, in the base's dtype
    coefficients: Float[Tensor, "model *tensor"]  # clamped
    tensors: tuple[str, ...]  # names of the coefficients' columns
    tasks: tuple[str, ...]  # those with an entropy
    entropy: Float[Tensor, "step task"]  # before each step, mean over its batch, in nats
    predictions: dict[str, Int[Tensor, " class"]]  # how often each class was predicted at the end
    notes: tuple[str, ...]  # what a reader of the result must know
    state: State  # after the last step; `resume` continues from it


def adamerging(
    forward: Callable[[Weights, str, Inputs], Tensor],  # (weights, task, inputs) -> logits
    vectors: Vectors,
    unlabelled: Mapping[str, Callable[[int], Inputs]],  # task -> (step -> a batch of inputs)
    kinds: Mapping[str, str],  # task -> "classes", "labels" or "number"
    steps: int = 40,
    learning_rate: float = 1e-2,
    granularity: str = "tensor",
    init: float = 0.3,
    plus: bool = False,
    density: float = 0.2,  # of TIES, if plus
    resume: State | None = None,
    progress: Callable[[State], None] | None = None,
) -> AdaMerged:
    """Merges. `forward` must be deterministic (evaluation mode): the step is the only seed.

    `progress` is given the state, a few small tensors, after every step; a run given one of them as
    `resume`, all other arguments unchanged, ends with the same bits.
    """
    asked = _tasks_with_entropy(kinds, unlabelled)

    def predict(weights: Weights, task: str, step: int) -> Float[Tensor, "batch class"]:
        return forward(weights, task, unlabelled[task](step))

    def entropies(weights: Weights, step: int) -> Iterator[Tensor]:
        for task, kind in asked.items():
            yield prediction_entropy(predict(weights, task, step), kind).mean()

    clean = CleanVectors(vectors, density) if plus else vectors
    merge = ScaledMerge(clean, granularity, init, bounds=(0.0, 1.0))
    state = learn(merge, tuple(asked), entropies, Course(steps, learning_rate), resume, progress)
    weights = finished(merge)
    single = [task for task, kind in asked.items() if kind == "classes"]
    counts = {task: _count(predict, weights, task, min(steps, CHECKED)) for task in single}
    return AdaMerged(
        weights=weights,
        coefficients=merge.scales().detach(),
        tensors=merge.names,
        tasks=tuple(asked),
        entropy=state["curve"],
        predictions=counts,
        notes=_notes(learning_rate * steps, init, kinds, counts),
        state=state,
    )


@torch.no_grad()
def _count(
    predict: Callable[[Weights, str, int], Tensor], weights: Weights, task: str, batches: int
) -> Int[Tensor, " class"]:
    counts = torch.zeros(0, dtype=torch.int64)
    for step in range(batches):
        logits = predict(weights, task, step)  # [batch class]
        found = logits.argmax(dim=-1).bincount(minlength=logits.shape[-1]).cpu()
        counts = found if step == 0 else counts + found
    return counts


def _tasks_with_entropy(kinds: Mapping[str, str], given: Mapping[str, object]) -> dict[str, str]:
    known = (*HAVE_ENTROPY, "number")
    for task, kind in kinds.items():
        if kind not in known:
            hint = did_you_mean(kind, known)
            raise TaskgroveError(f'task "{task}" is "{kind}"; expected {listed(known)}.{hint}')
    asked = {task: kind for task, kind in kinds.items() if kind in HAVE_ENTROPY}
    if not asked:
        raise TaskgroveError(
            f"none of the tasks {listed(kinds)} has classes or labels, so there is no entropy to "
            "lower; merge by task arithmetic instead."
        )
    if half := [t for t in asked if t not in given] + [t for t in given if t not in kinds]:
        raise TaskgroveError(
            f"tasks {listed(half)} have only one of a kind and unlabelled inputs (kinds: "
            f"{listed(kinds)}; inputs: {listed(given)}); expected both."
        )
    return asked


def _notes(
    way: float, init: float, kinds: Mapping[str, str], counts: Mapping[str, Tensor]
) -> tuple[str, ...]:
    notes = []
    if way < min(init, 1 - init):
        notes.append(
            f"learning_rate x steps is {way:.3g}: no coefficient could travel from {init:g} to 0 "
            "or 1, so all ended near where they began"
        )
    if numbers := [task for task, kind in kinds.items() if kind == "number"]:
        notes.append(f"{listed(numbers)}: no entropy, so the other tasks chose the coefficients")
    for task, n in counts.items():
        if (share := (n.max() / n.sum()).item()) > COLLAPSE:
            notes.append(
                f'task "{task}": one class takes {share:.0%} of the predictions; either it is that '
                "common or entropy fell by collapse"
            )
    return tuple(notes)
