"""MixtureOfExperts: a feed-forward layer of experts, and what can be done with a trained one.

Mod-Squad, Chen et al., CVPR 2023, arXiv 2212.08066; its successor, Chen et al. 2023, arXiv
2306.17165; Shazeer et al. 2017, arXiv 1701.06538.

    p = softmax(W_t x);  y = sum over the k largest p_e: p_e (W2_e gelu(W1_e x + b1_e) + b2_e)

Symbols: x [entry token dim], entries sorted by task; W1 [expert hidden dim], W2 [expert dim
hidden]; gates p_e sum to 1 over the chosen where `renormalise`. k = expert is a dense mixture.
`prune` keeps for one task the experts that hold `keep` of its gates' mass; `extend` adds experts
that routers of earlier tasks do not see: their tasks run as before the extension, bit for bit.
Differs from the papers: the router starts at noise (see `routers`); no noisy gating (off in the
authors' best setting).
Cost a token: k experts, whatever their number; a batch is sorted by expert once.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import gelu

from taskgrove.errors import TaskgroveError
from taskgrove.sharing.chosen import Chosen, combine, spread, top
from taskgrove.sharing.grouped import grouped
from taskgrove.sharing.route import Route
from taskgrove.sharing.routers import FixedRouter, TaskRouter

Router = nn.Module | FixedRouter


class MixtureOfExperts(nn.Module):
    """y and what was chosen, of x and the route of its entries over tasks."""

    def __init__(
        self,
        dim: int,
        hidden: int,
        experts: int,
        router: Router,
        k: int = 2,
        act: Callable[[Tensor], Tensor] = gelu,
        *,
        renormalise: bool = False,
    ) -> None:
        super().__init__()
        if not 1 <= k <= experts:
            raise TaskgroveError(f"{k} active of {experts} experts: give 1 to {experts}")
        self.router, self.k, self.act, self.renormalise = router, k, act, renormalise
        self.W1, self.b1 = stack(experts, hidden, dim)
        self.W2, self.b2 = stack(experts, dim, hidden)

    @property
    def experts(self) -> int:
        return len(self.W1)

    def forward(
        self, x: Float[Tensor, "entry token dim"], route: Route
    ) -> tuple[Float[Tensor, "entry token dim"], Chosen]:
        chosen = choose(self.router, x, route, self.k, renormalise=self.renormalise)
        flat = x.reshape(-1, x.shape[-1])  # [position dim]
        y = mixed(flat, chosen, self.W1, self.b1, self.W2, self.b2, self.act)
        return y.view(x.shape), chosen


def mixed(
    x: Float[Tensor, "position dim"],
    chosen: Chosen,
    W1: Float[Tensor, "expert hidden dim"],
    b1: Float[Tensor, "expert hidden"],
    W2: Float[Tensor, "expert dim hidden"],
    b2: Float[Tensor, "expert dim"],
    act: Callable[[Tensor], Tensor] = gelu,
) -> Float[Tensor, "position dim"]:
    """y by two grouped products."""
    h = act(grouped(spread(x, chosen), W1, chosen.route, b1))  # [entry hidden]
    return combine(grouped(h, W2, chosen.route, b2), chosen)


def choose(
    router: Router, x: Float[Tensor, "entry token dim"], route: Route, k: int, *, renormalise: bool
) -> Chosen:
    """Each token's experts."""
    if isinstance(router, FixedRouter):
        return router.choose(x.shape[1], route)
    return top(router(x, route).flatten(0, 1), k, renormalise)


def stack(experts: int, out: int, dim: int) -> tuple[nn.Parameter, nn.Parameter]:
    """W [expert out dim] and b [expert out], each expert as a linear layer starts."""
    edge = dim**-0.5
    W, b = torch.empty(experts, out, dim), torch.empty(experts, out)
    return nn.Parameter(W.uniform_(-edge, edge)), nn.Parameter(b.uniform_(-edge, edge))


class Extended(nn.Module):
    """A mixture with more experts, which `router`, of tasks numbered from `first` on, sees beside
    the old ones; earlier tasks run through `old`, which may be extended itself."""

    def __init__(
        self, old: "MixtureOfExperts | Extended", first: int, experts: int, router: TaskRouter
    ) -> None:
        super().__init__()
        self.old, self.first, self.router, self.k = old, first, router, old.k
        inner = innermost(old)
        self.act, self.renormalise = inner.act, inner.renormalise
        out, dim = inner.W1.shape[1:]
        self.W1, self.b1 = stack(experts, out, dim)
        self.W2, self.b2 = stack(experts, dim, out)

    def weights(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """W1, b1, W2, b2 of all experts, old ones first."""
        old = self.old
        W1, b1, W2, b2 = (
            old.weights() if isinstance(old, Extended) else (old.W1, old.b1, old.W2, old.b2)
        )
        pairs = (W1, self.W1), (b1, self.b1), (W2, self.W2), (b2, self.b2)
        return torch.cat(pairs[0]), torch.cat(pairs[1]), torch.cat(pairs[2]), torch.cat(pairs[3])

    def forward(
        self, x: Float[Tensor, "entry token dim"], route: Route
    ) -> tuple[Float[Tensor, "entry token dim"], Chosen | None]:
        """y, and what the new tasks chose: None where the batch has none."""
        early, late = split(route, self.first)
        count = early.starts[-1]
        y = [self.old(x[:count], early)[0]] if count else []
        if not late.starts[-1]:
            return y[0], None
        rest = x[count:]
        chosen = choose(self.router, rest, late, self.k, renormalise=self.renormalise)
        found = mixed(rest.reshape(-1, x.shape[-1]), chosen, *self.weights(), self.act)
        return torch.cat([*y, found.view_as(rest)]), chosen


def split(route: Route, first: int) -> tuple[Route, Route]:
    """The groups below number `first`, and the others numbered from 0, whose entries come last."""
    below = [n for n in route.groups if n < first]
    if list(route.groups[: len(below)]) != below:
        raise TaskgroveError(
            f"entries of tasks from {first} on must come after those of the others"
        )
    at = len(below)
    cut = route.starts[at]
    late = tuple(start - cut for start in route.starts[at:])
    numbers = tuple(n - first for n in route.groups[at:])
    return (
        Route((), route.rows[:cut], route.starts[: at + 1], tuple(below)),
        Route((), route.rows[cut:] - cut, late, numbers),
    )


def innermost(mixture: "MixtureOfExperts | Extended") -> MixtureOfExperts:
    """The mixture that was extended."""
    while isinstance(mixture, Extended):
        mixture = mixture.old
    return mixture


def extend(
    mixture: MixtureOfExperts | Extended, tasks: int, experts: int, new: int = 1
) -> Extended:
    """`experts` more for `new` tasks after the first `tasks`, whose own weights stay fixed."""
    inner = innermost(mixture)
    mixture.requires_grad_(False)
    seen = experts + sum(len(p) for name, p in mixture.named_parameters() if name[-2:] == "W1")
    return Extended(mixture, tasks, experts, TaskRouter(new, seen, inner.W1.shape[2]))


def kept(mass: Float[Tensor, " expert"], keep: float) -> list[int]:
    """The fewest experts that hold `keep` of the mass."""
    order = mass.argsort(descending=True)
    held = mass[order].cumsum(0) / mass.sum()
    return sorted(order[: int((held < keep).sum()) + 1].tolist())


def prune(
    mixture: MixtureOfExperts, task: int, mass: Float[Tensor, " expert"], keep: float = 0.95
) -> MixtureOfExperts:
    """A mixture for one task, whose number becomes 0, with the experts that it needs; tokens of
    the others are routed anew. `mass`: of the gates of the task's tokens. k shrinks with it."""
    router = mixture.router
    if not isinstance(router, TaskRouter):
        raise TaskgroveError("only experts with a router a task can be pruned for a task")
    own = kept(mass, keep)
    hidden, dim = mixture.W1.shape[1:]
    small = MixtureOfExperts(
        dim, hidden, len(own), TaskRouter(1, len(own), dim), min(mixture.k, len(own)), mixture.act,
        renormalise=mixture.renormalise,
    )  # fmt: skip
    with torch.no_grad():
        for name in ("W1", "b1", "W2", "b2"):
            getattr(small, name).copy_(getattr(mixture, name)[own])
        small.router.W.copy_(router.W[task : task + 1, own])  # pyright: ignore
    return small
