"""ExpertVit: a vision transformer, half of whose layers are mixtures of experts, a router a task.

Mod-Squad, Chen et al., CVPR 2023, arXiv 2212.08066: attention experts in even blocks, feed-forward
experts in odd ones, the other half of each block dense; `dense` has the same active products
throughout. One batch shows one task. Symbols: images [row 3 size size]; x [row token dim].
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention

from taskgrove.backbones.patches import sincos_2d
from taskgrove.sharing.chosen import Chosen
from taskgrove.sharing.expert_attention import ExpertAttention
from taskgrove.sharing.experts import Extended, MixtureOfExperts, extend, kept, prune
from taskgrove.sharing.route import Route
from taskgrove.sharing.routers import TaskRouter, fresh_router

DIM, DEPTH, HEADS, PATCH = 96, 4, 4, 7
EXPERTS, K, HEAD = 8, 2, 24  # feed-forward: 2 of 8; attention: HEADS of 8


class Attention(nn.Module):
    """Dense, of as many heads."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(DIM, 3 * DIM), nn.Linear(DIM, DIM)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(2, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        return self.out(scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """Dense, as wide as the active experts."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(DIM, K * DIM), nn.Linear(K * DIM, DIM)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(gelu(self.up(x)))


class Layer(nn.Module):
    """x + f(norm(x)), f dense or of experts."""

    def __init__(self, f: nn.Module) -> None:
        super().__init__()
        self.norm, self.f = nn.LayerNorm(DIM), f

    def forward(self, x: Tensor, route: Route) -> tuple[Tensor, Chosen | None]:
        if isinstance(self.f, (Attention, FeedForward)):
            return x + self.f(self.norm(x)), None
        y, chosen = self.f(self.norm(x), route)
        return x + y, chosen


class ExpertVit(nn.Module):
    """Logits of one task's batch, and what each mixture chose."""

    def __init__(self, classes: list[int], *, experts: bool) -> None:
        super().__init__()
        tasks = len(classes)
        self.patches = nn.Conv2d(3, DIM, PATCH, stride=PATCH)
        layers: list[nn.Module] = []
        for block in range(DEPTH):
            attention, feed = Attention(), FeedForward()
            if experts and block % 2 == 0:
                router = TaskRouter(tasks, EXPERTS, DIM)
                attention = ExpertAttention(DIM, HEAD, EXPERTS, router, HEADS)
            elif experts:
                router = TaskRouter(tasks, EXPERTS, DIM)
                feed = MixtureOfExperts(DIM, DIM, EXPERTS, router, K)
            layers += [Layer(attention), Layer(feed)]
        self.layers, self.norm = nn.ModuleList(layers), nn.LayerNorm(DIM)
        self.heads = nn.ModuleList(nn.Linear(DIM, count) for count in classes)

    def forward(self, images: Tensor, task: int) -> tuple[Tensor, list[Chosen]]:
        x = self.patches(images)  # [row dim line column]
        positions = sincos_2d(x.shape[2], DIM).to(x)
        x = x.flatten(2).transpose(1, 2) + positions  # [row token dim]
        route = Route((), torch.arange(len(x)), (0, len(x)), (task,))
        found = []
        for layer in self.layers:
            x, chosen = layer(x, route)
            if chosen is not None:
                found.append(chosen)
        return self.heads[task](self.norm(x).mean(1)), found

    def mixtures(self) -> list[Layer]:
        """The layers of experts."""
        kinds = (MixtureOfExperts, ExpertAttention, Extended)
        return [layer for layer in self.layers if isinstance(layer.f, kinds)]  # pyright: ignore


def extracted(model: ExpertVit, task: int, mass: list[Tensor], keep: float) -> list[int]:
    """Makes a model that of one task, number 0, in place; how many experts each mixture keeps.

    `mass`: of the task's gates, a mixture each.
    """
    counts = []
    for layer, own in zip(model.mixtures(), mass, strict=True):
        if isinstance(layer.f, MixtureOfExperts):
            layer.f = prune(layer.f, task, own, keep)
            counts.append(layer.f.experts)
        elif isinstance(layer.f, ExpertAttention):
            best = kept(own, keep)
            counts.append(len(best))
            _heads(layer.f, task, best)
    model.heads = nn.ModuleList([model.heads[task]])
    return counts


def _heads(attention: ExpertAttention, task: int, best: list[int]) -> None:
    """An attention with some of its experts, for one task."""
    router, rows = attention.router, slice(task, task + 1)
    if isinstance(router, TaskRouter):
        router.W = nn.Parameter(router.W.data[rows, best])
    attention.k = min(attention.k, len(best))
    attention.Wq = nn.Parameter(attention.Wq.data[best])
    attention.Wo = nn.Parameter(attention.Wo.data[best])


def with_new_task(model: ExpertVit, classes: int, new: int) -> list[nn.Parameter]:
    """Adds a task in place: a head, router rows, and `new` experts a feed-forward mixture; returns
    what it trains. What earlier tasks use stays fixed."""
    model.requires_grad_(False)
    tasks, own = len(model.heads), []
    for layer in model.mixtures():
        if isinstance(layer.f, MixtureOfExperts) and new:
            layer.f = extend(layer.f, tasks, new)
            own += [p for name, p in layer.f.named_parameters() if not name.startswith("old.")]
        elif isinstance(layer.f, (MixtureOfExperts, ExpertAttention)):
            router: Any = layer.f.router
            rows = fresh_router(1, *router.W.shape[1:])
            router.W = nn.Parameter(torch.cat([router.W.data, rows]))
            own.append(router.W)
    model.heads.append(nn.Linear(DIM, classes))
    own += model.heads[-1].parameters()
    return [p.requires_grad_() for p in own]
