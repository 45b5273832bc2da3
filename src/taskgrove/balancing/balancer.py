"""Balancer: one step from K losses to one balanced gradient.

    source     the losses' graphs: exact gradients of shared parameters, or signals at the features
    statistic  shares, losses, and the Gramian M = G G^T of the task gradients, in float64
    weighting  a function of the statistic alone (see `choice`, one file a method)
    apply      d = sum_t w_t g_t to the shared parameters; a head gets share_t times its own

Methods that see losses only get one backward pass of sum_t w_t L_t, heads included. All others see
task gradients taken before any sum: a projection after one summed backward cannot be written here.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from taskgrove.balancing.batch import Balanced, Batch, Level, Part, Reduce, unscaled
from taskgrove.balancing.choice import Choice, Setup, on_gramian
from taskgrove.balancing.flows import as_before, by_gradients, by_losses
from taskgrove.balancing.table import choice_of

Shared = nn.Module | Sequence[nn.Parameter] | Mapping[str, Sequence[nn.Parameter]]


class Balancer:
    """A balancing method bound to its parameters; `step` takes the place of `loss.backward()`.

    `method`: a name of BALANCERS, a Choice, or a function (M, share) -> w. `tasks`: how many there
    are, absent ones included. `shared`: the parameters to balance, as a module, a list, or a
    mapping of named groups, each of which is balanced by itself; those that several losses of a
    step reach where None. `own`: all other parameters, needed only with `all_reduce`. `every`:
    steps between two looks at the gradients; between them the last weights hold, at the price of a
    plain step. `watch`: a method that sees losses only measures the Gramian every so many steps.
    """

    def __init__(
        self,
        method: str | Choice | Callable[[Tensor, Tensor], Tensor],
        tasks: int,
        *,
        shared: Shared | None = None,
        own: Sequence[nn.Parameter] = (),
        level: Level = "parameters",
        every: int = 1,
        watch: int = 0,
        seed: int = 0,
        numbers: Sequence[bool] | None = None,
    ) -> None:
        self.choice = choice_of(method) if isinstance(method, str) else _choice(method)
        self.groups = _groups(shared)
        self.level: Level = level
        self.own, self.every, self.watch = list(own), every, watch
        if len(self.groups) > 1 and (every > 1 or level == "features"):
            raise ValueError(
                'groups need level="parameters" and every=1: one weight each, each step'
            )
        if self.choice.tracks and level == "features":
            raise ValueError(
                "this method keeps a state as long as a row, and rows at the features change with"
                ' the batch; use level="parameters"'
            )
        sizes = [sum(p.numel() for p in group) for group in self.groups] or [0]
        setups = [Setup(tasks, seed, numbers, size) for size in sizes]
        self.weightings: list[Any] = [self.choice.make(setup) for setup in setups]
        self.steps = self.fallbacks = 0
        self.buffers: dict[nn.Parameter, Tensor] = {}  # room for rows, see gradients.Written
        self.last: dict[int, float] = {}  # weights by task between two looks, as multiples of share

    @property
    def modules(self) -> list[nn.Module]:
        """The weightings that have a state; their parameters are for the optimiser."""
        return [w for w in self.weightings if isinstance(w, nn.Module)]

    @property
    def sees_gradients(self) -> bool:
        """Whether the method needs more than losses."""
        return self.choice.needs in ("gramian", "rows")

    def step(
        self,
        losses: Sequence[Tensor | None],
        *,
        share: Sequence[float] | Tensor | None = None,
        features: Sequence[Tensor] = (),
        scale: Callable[[Tensor], Tensor] | None = None,
        backward: Callable[[Tensor], object] | None = None,
        all_reduce: Reduce | None = None,
    ) -> Balanced:
        """Adds the balanced gradient of the losses to every `.grad`.

        `losses`: a scalar a task with its graph, None where the task is absent. `share` [task]: how
        much each task counts, equal where None. `features`: the trunk's outputs, needed where tasks
        do not meet. `scale`: a loss scaler's. `backward`: what to call in place of
        `loss.backward()`, such as accelerator.backward. `all_reduce` adds up (or averages, as the
        gradients are) a tensor over processes, in place; losses are then parts of the joined ones.
        """
        present = [task for task, loss in enumerate(losses) if loss is not None]
        found = [loss for loss in losses if loss is not None]
        shares = torch.ones(len(losses)) if share is None else torch.as_tensor(share)
        return self.run(
            [lambda: found], present, shares[present], features=features, scale=scale,
            backward=backward, all_reduce=all_reduce,
        )  # fmt: skip

    def run(
        self,
        parts: Sequence[Part],
        present: Sequence[int],
        share: Tensor,
        *,
        own: Sequence[nn.Parameter] | None = None,
        features: Sequence[Tensor] = (),
        scale: Callable[[Tensor], Tensor] | None = None,
        backward: Callable[[Tensor], object] | None = None,
        all_reduce: Reduce | None = None,
    ) -> Balanced:
        """`step` over a batch in parts (gradient accumulation), one after the other.

        Each part computes the present tasks' losses: sums over its rows divided by the whole
        batch's counts, without a graph where it has no rows of a task. `own`: the present tasks'
        own parameters, where not all of the constructor's take part.
        """
        shares = share.double().cpu()
        batch = Batch(
            parts,
            list(present),
            shares / shares.sum(),
            self.steps,
            self.own if own is None else own,
            features,
            scale or unscaled,
            backward,
            all_reduce,
        )
        self.steps += 1
        if not self.sees_gradients:
            done = by_losses(self, batch)
        elif batch.number % self.every and self.last:
            done = as_before(self, batch)
        else:
            done = by_gradients(self, batch)
        self.fallbacks += done.fallback
        return done

    def observe(self, tasks: Sequence[int], losses: Tensor) -> None:
        """The same batch's losses after the optimiser's step, for methods that look again."""
        if self.choice.again:
            found = losses.detach().double().cpu()
            if found.isfinite().all():
                for weighting in self.weightings:
                    weighting.observe(torch.tensor(list(tasks)), found)

    def state(self) -> dict[str, Tensor]:
        """Everything a resumed run needs, as named tensors."""
        found = {"steps": torch.tensor([self.steps, self.fallbacks])}
        found["last"] = torch.tensor([[t, c] for t, c in self.last.items()], dtype=torch.float64)
        for number, module in enumerate(self.weightings):
            if isinstance(module, nn.Module):
                found |= {f"{number}.{name}": value for name, value in module.state_dict().items()}
        return found

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Takes back what `state` gave."""
        self.steps, self.fallbacks = state["steps"].tolist()
        self.last = {int(t): c for t, c in state["last"].reshape(-1, 2).tolist()}
        for number, module in enumerate(self.weightings):
            if isinstance(module, nn.Module):
                mine = f"{number}."
                module.load_state_dict(
                    {n[len(mine) :]: v for n, v in state.items() if n.startswith(mine)}
                )


def _choice(method: Choice | Callable[[Tensor, Tensor], Tensor]) -> Choice:
    if isinstance(method, Choice):
        return method
    return Choice("a function of the Gramian", on_gramian(method), "gramian", frozenset())


def _groups(shared: Shared | None) -> list[list[nn.Parameter]]:
    if shared is None:
        return []
    if isinstance(shared, nn.Module):
        groups = [list(shared.parameters())]
    elif isinstance(shared, Mapping):
        groups = [list(group) for group in shared.values()]
    else:
        groups = [list(shared)]
    found = [[p for p in group if p.requires_grad] for group in groups]
    every = [id(p) for group in found for p in group]
    if not every or len(set(every)) != len(every):
        raise ValueError(
            "shared must hold trainable parameters, each in one group only;"
            f" got {len(every)}, of which {len(set(every))} are different"
        )
    return found
