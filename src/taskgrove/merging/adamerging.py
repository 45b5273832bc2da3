"""AdaMerging: learns the scales of task vectors from unlabelled inputs.

Yang, Wang, Shen, Liu, Guo, Wang, Tao, "AdaMerging: Adaptive Model Merging for Multi-Task Learning",
ICLR 2024, arXiv 2310.02575. The merged model should be sure of its predictions in every task; so
their entropy, which needs no labels, chooses a coefficient per model and tensor (or per model).

    min_lam  sum_t mean_{x in B_t} H(h_t(f(x; theta(lam))))      theta(lam): see scaled_merge
    AdaMerging++ (plus=True): the same on the task vectors cleaned by TIES

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

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from taskgrove.errors import TaskgroveError, did_you_mean, listed
from taskgrove.merging.scaled_merge import ScaledMerge
from taskgrove.merging.ties import clean
from taskgrove.objectives.entropy import HAVE_ENTROPY, prediction_entropy

COLLAPSE = 0.8  # a class with a larger share of a task's predictions is worth a note
CHECKED = 8  # batches per task on which the finished model's predictions are counted

Inputs = TypeVar("Inputs")  # whatever `forward` reads: inputs, never targets
Weights = dict[str, Tensor]
State = dict[str, Tensor]


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
    base: Mapping[str, Tensor],
    deltas: Mapping[str, Float[Tensor, "model ..."]],
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
    if steps < 1 or not learning_rate > 0:
        raise TaskgroveError(f"steps={steps}, learning_rate={learning_rate}: expected above 0.")

    def predict(weights: Weights, task: str, step: int) -> Float[Tensor, "batch class"]:
        return forward(weights, task, unlabelled[task](step))

    vectors = clean(deltas, density) if plus else deltas
    merge = ScaledMerge(base, vectors, granularity, init, bounds=(0.0, 1.0))
    adam = torch.optim.Adam([merge.coefficients], lr=learning_rate, weight_decay=0.0)
    curve = _restore(resume, merge, adam, len(asked), steps) if resume else []
    for step in range(len(curve), steps):
        curve.append(_step(predict, merge, adam, asked, step))
        if progress:
            progress(_state(merge, adam, curve))
    weights = {name: w.requires_grad_(False) for name, w in merge.weights().items()}  # ties stay
    single = [task for task, kind in asked.items() if kind == "classes"]
    counts = {task: _count(predict, weights, task, min(steps, CHECKED)) for task in single}
    return AdaMerged(
        weights=weights,
        coefficients=merge.scales().detach(),
        tensors=merge.names,
        tasks=tuple(asked),
        entropy=torch.stack(curve),  # [step task]
        predictions=counts,
        notes=_notes(learning_rate * steps, init, kinds, counts),
        state=_state(merge, adam, curve),
    )


Predict = Callable[[Weights, str, int], Tensor]


def _step(
    predict: Predict, merge: ScaledMerge, adam: torch.optim.Adam, asked: dict[str, str], step: int
) -> Float[Tensor, " task"]:
    weights = merge.weights()
    leaves = [weights[name] for name in merge.names if weights[name].requires_grad]
    entropies = []
    for task, kind in asked.items():
        loss = prediction_entropy(predict(weights, task, step), kind).mean()
        if not (loss.requires_grad and loss.isfinite()):
            raise TaskgroveError(
                f'task "{task}", step {step}: the entropy is {loss.item()}'
                f"{'' if loss.requires_grad else ' and does not depend on the weights'}; expected "
                "forward(weights, task, inputs) to compute finite logits with those weights, and "
                "at least one input."
            )
        loss.backward(inputs=leaves)  # into W only, not into the heads
        entropies.append(loss.detach().float().cpu())
    adam.zero_grad()
    merge.backward_from({name: weights[name].grad for name in merge.names})
    adam.step()
    return torch.stack(entropies)


def _state(merge: ScaledMerge, adam: torch.optim.Adam, curve: list[Tensor]) -> State:
    moments = {name: m.clone() for name, m in adam.state[merge.coefficients].items()}
    lam = merge.coefficients.detach().clone()
    return {"coefficients": lam, "entropy": torch.stack(curve), **moments}


def _restore(
    state: State, merge: ScaledMerge, adam: torch.optim.Adam, tasks: int, steps: int
) -> list[Tensor]:
    """Puts a state back; its entropy curve is as long as the steps it has taken."""
    lam, curve = merge.coefficients, state["entropy"]
    if state["coefficients"].shape != lam.shape or curve.shape[1] != tasks or len(curve) > steps:
        raise TaskgroveError(
            f"the state to resume has coefficients {tuple(state['coefficients'].shape)}, "
            f"{curve.shape[1]} tasks and {len(curve)} steps; expected {tuple(lam.shape)}, {tasks} "
            f"and at most {steps}: give the same models, tasks and granularity as before."
        )
    with torch.no_grad():
        lam.copy_(state["coefficients"])
    adam.state[lam] = {name: state[name].clone() for name in ("step", "exp_avg", "exp_avg_sq")}
    return list(curve)


@torch.no_grad()
def _count(predict: Predict, weights: Weights, task: str, batches: int) -> Int[Tensor, " class"]:
    logits = torch.cat([predict(weights, task, step) for step in range(batches)])  # [row class]
    return logits.argmax(dim=-1).bincount(minlength=logits.shape[-1]).cpu()


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
