"""How torchjd can take a step of a case: each way that its documentation offers, by name.

`autojac`: the Jacobian, all rows at once (vmap) or in chunks, then `jac_to_grad`. `autogram`: the
Gramian alone, then one weighted backward pass (heads get weighted gradients too). "by hand": not in
its documentation, but what a user who reads it could write with its functions.
"""

# pyright: reportMissingImports=false

from collections.abc import Callable

import torch
from cases import Case
from measure import Step
from torch import Tensor, nn
from torchjd.aggregation import UPGrad, UPGradWeighting
from torchjd.autogram import Engine
from torchjd.autojac import backward, jac, jac_to_grad, mtl_backward

Way = Callable[[Case], Step]


def rows_of(chunk: int | None, sums: bool) -> Way:
    """`mtl_backward`: heads one by one, the trunk's Jacobian `chunk` rows at a time.

    `sums`: the Gramian as a sum over parameters, which its documentation advises for memory.
    """

    def make(case: Case) -> Step:
        aggregator = UPGrad()
        shared = case.shared()

        def step() -> None:
            found = [case.joined()] if case.own else case.features()
            losses = case.losses(found[0] if case.own else found)
            mtl_backward(losses, features=found, parallel_chunk_size=chunk)
            jac_to_grad(shared, aggregator, optimize_gramian_computation=sums)

        return step

    return make


def separate(case: Case) -> Step:
    """`mtl_backward` where each task has a forward pass of its own."""
    aggregator = UPGrad()

    def step() -> None:
        found = case.features()
        mtl_backward(case.losses(found), features=found)
        jac_to_grad(case.shared(), aggregator)

    return step


def by_task(case: Case) -> Step:
    """By hand: `jac` of each task's loss through its own graph alone, then the aggregator."""
    aggregator, shared = UPGrad(), case.shared()

    def step() -> None:
        matrix = []
        for loss, head in zip(case.losses(), case.heads, strict=True):
            own = list(head.parameters())
            *parts, last = jac([loss], [*shared, *own])[::-1]
            found = [last, *parts[::-1]]
            matrix.append(torch.cat([part.flatten() for part in found[: len(shared)]]))
            for parameter, part in zip(own, found[len(shared) :], strict=True):
                parameter.grad = part[0]
        direction = aggregator(torch.stack(matrix))
        parts = direction.split([parameter.numel() for parameter in shared])
        for parameter, part in zip(shared, parts, strict=True):
            parameter.grad = part.view_as(parameter)

    return step


def layers(trunk: nn.Module) -> list[nn.Module]:
    """The modules that hold parameters themselves."""
    return [m for m in trunk.modules() if any(True for _ in m.parameters(recurse=False))]


def gramian(case: Case) -> Step:
    """`Engine` over the vector of losses, then their weighted sum's backward pass."""
    engine, weighting = Engine(*layers(case.trunk), batch_dim=None), UPGradWeighting()

    def step() -> None:
        losses = torch.stack(case.losses(case.joined() if case.own else None))
        losses.backward(weighting(engine.compute_gramian(losses)))

    return step


def gramian_kept(case: Case) -> Step:
    """By hand: an `Engine` made for every n-th step alone; its weights serve the others.

    An engine that lives on counts the forward passes in between and then refuses.
    """
    weighting = UPGradWeighting()
    weights: list[Tensor] = []
    done = 0

    def step() -> None:
        nonlocal done
        engine = Engine(*layers(case.trunk), batch_dim=None) if done % case.every == 0 else None
        losses = torch.stack(case.losses())
        if engine is not None:
            weights[:] = [weighting(engine.compute_gramian(losses))]
        losses.backward(weights[0])
        done += 1

    return step


def gramian_by_task(case: Case) -> Step:
    """`Engine` with the tasks' batches as its batch dimension: each loss goes through its rows."""
    engine, weighting = Engine(*layers(case.trunk), batch_dim=0), UPGradWeighting()

    def step() -> None:
        losses = torch.stack(case.losses(case.joined()))
        losses.backward(weighting(engine.compute_gramian(losses)))

    return step


def kept_weights(case: Case) -> Step:
    """By hand: the weights that `jac_to_grad` returns serve the steps up to the next refresh."""
    aggregator, shared = UPGrad(), case.shared()
    weights: list[Tensor] = []
    done = 0

    def step() -> None:
        nonlocal done
        found = case.features()
        losses = case.losses(found)
        if done % case.every == 0:
            mtl_backward(losses, features=found)
            weights[:] = [jac_to_grad(shared, aggregator)]
        else:
            torch.stack(losses).backward(weights[0])
        done += 1

    return step


def cut(features: Tensor) -> tuple[Tensor, Tensor]:
    """A leaf for the features, and a view for the heads: FlopCounterMode cannot hook the leaf."""
    leaf = features.detach().requires_grad_()
    return leaf, leaf.view_as(leaf)


def at_features(case: Case) -> Step:
    """By hand: the features, detached, stand in for the shared parameters of `mtl_backward`."""
    aggregator = UPGrad()

    def step() -> None:
        found = case.features()[0]
        leaf, view = cut(found)
        mtl_backward(case.losses([view]), features=[view], shared_params=[leaf])
        jac_to_grad([leaf], aggregator)
        found.backward(leaf.grad)

    return step


def at_features_backward(case: Case) -> Step:
    """`backward` of all losses at once to the detached features; heads by a plain backward."""
    aggregator = UPGrad()

    def step() -> None:
        found = case.features()[0]
        leaf, view = cut(found)
        losses = case.losses([view])
        backward(losses, inputs=[leaf], retain_graph=True)
        torch.stack(losses).sum().backward(inputs=list(case.heads.parameters()))
        jac_to_grad([leaf], aggregator)
        found.backward(leaf.grad)

    return step


def ways(case: Case) -> dict[str, Way]:
    """The ways that fit a case."""
    if case.level == "features":
        return {"backward": at_features_backward, "mtl_backward by hand": at_features}
    found = {
        "mtl_backward": rows_of(None, sums=False),
        "mtl_backward, sums": rows_of(None, sums=True),
        "mtl_backward, chunk 1, sums": rows_of(1, sums=True),
        "engine": gramian,
    }
    if case.every > 1:
        by_hand = {"engine by hand": gramian_kept, "kept weights by hand": kept_weights}
        return {"mtl_backward": found["mtl_backward"]} | by_hand
    if case.own:
        found |= {
            "mtl_backward, forward each": separate,
            "engine, batch of tasks": gramian_by_task,
            "jac a task by hand": by_task,
        }
    return found
