"""Training of merging coefficients: the loop that learned merges share.

One step, whatever the method: theta(lam) once; a loss per task, each with a backward of its own
that adds into the gradient of theta; that gradient into lam by inner products; AdamW on lam.

    lam <- AdamW(lam, clip(d/dlam [sum_t L_t(theta(lam)) + penalty(lam)]))   rate(step) its rate

    lam: the parameters of a ScaledMerge; L_t: []; a curve of the L_t: [step task]

A run is a function of its state, a flat dict of small tensors: given one as `resume`, all else
unchanged, it ends with the same bits. With `validate`, whose larger values are better, the
coefficients that did best are put back at the end; the start is one of the candidates.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from taskgrove.errors import TaskgroveError
from taskgrove.merging.learned.scaled_merge import ScaledMerge

Weights = dict[str, Tensor]
State = dict[str, Tensor]
Losses = Callable[[Weights, int], Iterable[Tensor]]  # (theta, step) -> L_t, task by task
MOMENTS = ("step", "exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class Course:
    """How the coefficients are trained."""

    steps: int
    learning_rate: float
    cosine: bool = False  # the rate falls to 0 along half a cosine
    weight_decay: float = 0.0
    clip: float | None = None  # most norm of the coefficients' gradient
    penalty: Callable[[ScaledMerge], Tensor] | None = None
    validate: Callable[[Weights], float] | None = None
    every: int = 10  # steps between two validations

    def rate(self, step: int) -> float:
        """Of AdamW, at a step."""
        if not self.cosine:
            return self.learning_rate
        return self.learning_rate * (1 + math.cos(math.pi * step / self.steps)) / 2


def learn(
    merge: ScaledMerge,
    tasks: tuple[str, ...],
    losses: Losses,
    course: Course,
    resume: State | None = None,
    progress: Callable[[State], None] | None = None,
) -> State:
    """Trains `merge` in place; the state after the last step. `losses` must be deterministic."""
    if course.steps < 1 or not course.learning_rate > 0 or course.every < 1:
        raise TaskgroveError(
            f"steps={course.steps}, learning_rate={course.learning_rate}, every={course.every}: "
            "expected above 0."
        )
    adam = torch.optim.AdamW(merge.parameters(), lr=1.0, weight_decay=course.weight_decay)
    state = _restore(resume, merge, adam, len(tasks), course.steps) if resume else _start(tasks)
    for step in range(len(state["curve"]), course.steps):
        weights = merge.weights()
        state = _validated(state, merge, weights, course, step)
        found = _gradients(merge, weights, tasks, losses, step)
        del weights
        _move(merge, adam, course, step)
        state = _state(merge, adam, state, torch.cat([state["curve"], found[None]]))
        if progress:
            progress(state)
    if course.validate is not None:
        state = _validated(state, merge, merge.weights(), course, course.steps)
        with torch.no_grad():
            for name, parameter in merge.named_parameters():
                parameter.copy_(state[f"best.{name}"])
    return state


def finished(merge: ScaledMerge) -> Weights:
    """theta as a result: finite, without gradients, sharing no memory with the vectors."""
    whole = merge.weights()
    for name in merge.names:
        if not whole[name].requires_grad_(False).isfinite().all():
            raise TaskgroveError(
                f'merged tensor "{name}" is not finite as {whole[name].dtype}: '
                "use a smaller learning rate, or a base in a wider dtype."
            )
    merged = {whole[name].data_ptr() for name in merge.names}
    copies = {id(w): w if w.data_ptr() in merged else w.detach().clone() for w in whole.values()}
    return {name: copies[id(w)] for name, w in whole.items()}  # tied names stay tied


def _gradients(
    merge: ScaledMerge, weights: Weights, tasks: tuple[str, ...], losses: Losses, step: int
) -> Float[Tensor, " task"]:
    leaves = [weights[name] for name in merge.names if weights[name].requires_grad]
    found = []
    for task, loss in zip(tasks, losses(weights, step), strict=True):
        if not (loss.requires_grad and loss.isfinite()):
            raise TaskgroveError(
                f'task "{task}", step {step}: the loss is {loss.item()}'
                f"{'' if loss.requires_grad else ' and does not depend on the weights'}; expected "
                "forward(weights, task, inputs) to compute finite outputs with those weights, and "
                "at least one input."
            )
        loss.backward(inputs=leaves)  # into theta only, not into the heads
        found.append(loss.detach().float().cpu())
        del loss
    merge.zero_grad()
    merge.backward_from({name: weights[name].grad for name in merge.names})
    return torch.stack(found)


def _move(merge: ScaledMerge, adam: torch.optim.AdamW, course: Course, step: int) -> None:
    if course.penalty is not None:
        course.penalty(merge).backward()
    if course.clip is not None:
        torch.nn.utils.clip_grad_norm_(merge.parameters(), course.clip)
    adam.param_groups[0]["lr"] = course.rate(step)
    adam.step()


def _validated(
    state: State, merge: ScaledMerge, weights: Weights, course: Course, step: int
) -> State:
    """The state with this step's score, if one is due; the best parameters so far beside it."""
    due = step % course.every == 0 or step == course.steps
    if course.validate is None or not due or len(state["scores"]) > -(-step // course.every):
        return state
    with torch.no_grad():
        score = torch.tensor([course.validate(weights)], dtype=torch.float64)
    better = not len(state["scores"]) or score > state["scores"].max()
    best = {f"best.{n}": p.detach().clone() for n, p in merge.named_parameters()} if better else {}
    return {**state, **best, "scores": torch.cat([state["scores"], score])}


def _start(tasks: tuple[str, ...]) -> State:
    return {"curve": torch.zeros(0, len(tasks)), "scores": torch.zeros(0, dtype=torch.float64)}


def _state(merge: ScaledMerge, adam: torch.optim.AdamW, before: State, curve: Tensor) -> State:
    kept = {n: t for n, t in before.items() if n == "scores" or n.startswith("best.")}
    for name, parameter in merge.named_parameters():
        kept[name] = parameter.detach().clone()
        kept |= {f"{name}.{m}": adam.state[parameter][m].clone() for m in MOMENTS}
    return {**kept, "curve": curve}


def _restore(
    state: Mapping[str, Tensor],
    merge: ScaledMerge,
    adam: torch.optim.AdamW,
    tasks: int,
    steps: int,
) -> State:
    """Puts a state back; its curve is as long as the steps it has taken."""
    curve, lam = state["curve"], merge.coefficients
    if state["coefficients"].shape != lam.shape or curve.shape[1] != tasks or len(curve) > steps:
        raise TaskgroveError(
            f"the state to resume has coefficients {tuple(state['coefficients'].shape)}, "
            f"{curve.shape[1]} tasks and {len(curve)} steps; expected {tuple(lam.shape)}, {tasks} "
            f"and at most {steps}: give the same models, tasks and granularity as before."
        )
    with torch.no_grad():
        for name, parameter in merge.named_parameters():
            parameter.copy_(state[name])
            adam.state[parameter] = {m: state[f"{name}.{m}"].clone() for m in MOMENTS}
    return dict(state)
