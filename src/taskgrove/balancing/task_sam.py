"""Task-based sharpness-aware steps: F-X, for any method X that combines task gradients.

Improving Multi-task Learning via Seeking Task-based Flat Regions, Phan, Tran, Tran, Tran, Truong,
Lei, Ho, Phung, Le, arXiv 2211.13723; at ICCV 2025 as Beyond Losses Reweighting: Empowering
Multi-Task Learning via the Generalization Perspective.

Idea: each task climbs by itself to where its loss is worst nearby and takes its gradient there.
What that gradient adds to the plain one points to flatness; X combines the plain gradients and the
additions in two calls, so that a task's wish for flatness is weighed against those of others only.

    g_i = grad_s L_i(s, h_i)          q_i = grad_{h_i} L_i(s, h_i)
    eps_i = rho_s g_i / |g_i|         eta_i = rho_h q_i / |q_i|
    g_i^SAM = grad_s L_i(s + eps_i, h_i + eta_i)          q_i^SAM alike
    g_i^flat = g_i^SAM - g_i
    d = X({g_i}) + X({g_i^flat})      a head's own gradient is share_i q_i^SAM
    split=False, the paper's ablation:  d = X({g_i^SAM})

Symbols: K present tasks; s, g_i, eps_i, d [shared]; h_i, q_i, eta_i [own]; rows [task shared].
Cost: 2 K backward and K + 1 forward passes, X twice; 2 K rows are held.
Use it when labels are noisy or few: compare with `sam`, which costs two passes.
Tuned sums do as well when labels are clean: flatness then costs accuracy, more so for large rho.
Differs from the paper: heads are scaled by the task's share, as in every method here (the same
step under Adam); a task whose gradient is zero stays where it is.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from taskgrove.balancing import apply
from taskgrove.balancing.ascent import uphill
from taskgrove.balancing.balancer import Balancer, Shared
from taskgrove.balancing.batch import Balanced, Reduce
from taskgrove.balancing.choice import Choice, Statistic
from taskgrove.balancing.climb import Again, LossesOf, Row
from taskgrove.balancing.combined import combined
from taskgrove.errors import TaskgroveError


@dataclass(frozen=True)
class Flat:
    """F-X by name, for training on tasks files; `split`: both aggregations, or the ablation."""

    method: str = "cagrad"
    rho: float = 0.1
    split: bool = True


class TaskSAM:
    """X with task-based sharpness-aware steps; `step` takes the place of `loss.backward()`.

    `method`: X, a name of BALANCERS or a Choice that sees gradients or nothing; `tasks`, `shared`,
    `seed`, `numbers`: as in Balancer. `model`: what has running statistics, which must not see the
    weights up there. `rho_head`: `rho_shared` where None.
    """

    def __init__(
        self,
        method: str | Choice | Callable[[Tensor, Tensor], Tensor],
        tasks: int,
        *,
        shared: Shared | None = None,
        model: nn.Module | None = None,
        rho_shared: float = 0.1,
        rho_head: float | None = None,
        split: bool = True,
        seed: int = 0,
        numbers: Sequence[bool] | None = None,
    ) -> None:
        self.rho = rho_shared, rho_shared if rho_head is None else rho_head
        if not all(0 <= rho < float("inf") for rho in self.rho):
            raise TaskgroveError(f"rho is {self.rho[0]:g} and {self.rho[1]:g}: give 0 or more")
        self.tasks, self.model = tasks, model
        self.balancers = [  # X of the plain gradients and X of the flat parts: draws of their own
            Balancer(method, tasks, shared=shared, seed=2 * seed + n, numbers=numbers)
            for n in range(1 + split)
        ]
        if len(self.balancers[0].groups) > 1:
            raise TaskgroveError("task_sam balances all shared parameters together: give no groups")
        if self.choice.needs == "losses":
            raise TaskgroveError(
                f"task_sam combines task gradients, and this method weighs losses: {method}; give"
                ' one that sees gradients, such as "cagrad", or "mean"'
            )
        self.steps = self.fallbacks = 0

    @property
    def choice(self) -> Choice:
        """X."""
        return self.balancers[0].choice

    @property
    def modules(self) -> list[nn.Module]:
        """The weightings that have a state; their parameters are for the optimiser."""
        return [module for balancer in self.balancers for module in balancer.modules]

    @property
    def sees_gradients(self) -> bool:
        """Always: each task climbs along its own."""
        return True

    def step(
        self,
        losses_of: LossesOf,
        *,
        present: Sequence[int] | None = None,
        share: Sequence[float] | Tensor | None = None,
        scale: Callable[[Tensor], Tensor] | None = None,
    ) -> Balanced:
        """Adds the gradient to every `.grad`; the weights are as before.

        `losses_of(tasks)` evaluates the same batch at the weights as they are: a scalar a task. It
        is called with all `present` tasks (None: all), then with each alone; a task's noise must
        not depend on which others are asked (run the trunk on all rows, the heads asked for).
        `share` [task], `scale`: as in Balancer.step.
        """
        tasks = list(range(self.tasks) if present is None else present)
        shares = torch.ones(self.tasks) if share is None else torch.as_tensor(share)
        return self.run([losses_of], tasks, shares[tasks], scale=scale)

    def run(
        self,
        parts: Sequence[LossesOf],
        present: Sequence[int],
        share: Tensor,
        *,
        own: Sequence[nn.Parameter] = (),
        scale: Callable[[Tensor], Tensor] | None = None,
        all_reduce: Reduce | None = None,
    ) -> Balanced:
        """`step` over a batch in parts; other arguments as in Balancer.run."""
        groups, shares = self.balancers[0].groups, share.double().cpu()
        shares = shares / shares.sum()
        buffers = [] if self.model is None else list(self.model.buffers())
        joined = [*(groups[0] if groups else []), *own]
        one = torch.ones((), device=joined[0].device if joined else None)
        factor = 1.0 if scale is None else scale(one).item()
        batch = Again(parts, present, buffers, factor, all_reduce, joined)
        rows, losses, before = batch.here()
        shared = set(groups[0]) if groups else _several(rows)
        high = [
            batch.above(place, self._climb(row, shared), before, list(row))
            for place, row in enumerate(rows)
        ]
        flat = [_less(above, here) for above, here in zip(high, rows, strict=True)]
        sums = [high] if len(self.balancers) == 1 else [rows, flat]
        seen = Statistic(torch.tensor(list(present)), shares, self.steps, losses)
        found = [
            combined(balancer, seen, [_of(row, shared) for row in each])
            for balancer, each in zip(self.balancers, sums, strict=True)
        ]
        for d, weighed, _ in found:
            apply.add({p: g * factor for p, g in d.items()})
            if weighed.objective is not None:
                torch.autograd.backward(weighed.objective * factor)
        heads = found[0][1].weights if self.choice.needs == "nothing" else shares
        for row, weight in zip(high, (heads * factor).tolist(), strict=True):
            apply.add({p: q * weight for p, q in row.items() if p not in shared})
        fallback = any(weighed.fallback for _, weighed, _ in found)
        self.steps += 1
        self.fallbacks += fallback
        _, weighed, first = found[0]
        return Balanced(list(present), shares, weighed.weights, losses, first.gramian, fallback)

    def state(self) -> dict[str, Tensor]:
        """Everything a resumed run needs, as named tensors."""
        found = {"steps": torch.tensor([self.steps, self.fallbacks])}
        for number, balancer in enumerate(self.balancers):
            found |= {f"{number}/{name}": value for name, value in balancer.state().items()}
        return found

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Takes back what `state` gave."""
        self.steps, self.fallbacks = state["steps"].tolist()
        for number, balancer in enumerate(self.balancers):
            mine = f"{number}/"
            balancer.load({n[len(mine) :]: v for n, v in state.items() if n.startswith(mine)})

    def _climb(self, row: Row, shared: set[nn.Parameter]) -> Row:
        """eps_i and eta_i."""
        own = {p: q for p, q in row.items() if p not in shared}
        return uphill(_of(row, shared), self.rho[0]) | uphill(own, self.rho[1])


def _of(row: Row, parameters: set[nn.Parameter]) -> Row:
    return {p: g for p, g in row.items() if p in parameters}


def _several(rows: Sequence[Row]) -> set[nn.Parameter]:
    """The parameters that more than one task reaches."""
    count = Counter(p for row in rows for p in row)
    return {p for p, tasks in count.items() if tasks > 1}


def _less(above: Row, here: Row) -> Row:
    """g_i^SAM - g_i."""
    return {p: g - here[p] if p in here else g for p, g in above.items()}
