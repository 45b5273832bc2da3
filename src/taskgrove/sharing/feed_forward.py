"""The feed-forward blocks of any transformer, found by shape; and experts in their place.

A block is a linear layer from dim to hidden (or two, where one gates the other), what the trunk
does between, and a linear layer back to dim: ours, BERT's `intermediate.dense` and `output.dense`,
LLaMA's gate, up and down, T5's `wi`, `wi_0`, `wi_1`, `wo`, joined `gate_up_proj`. The trunk's own
activation, gate and dropout run between our two points, on k hidden vectors a token instead of one:
they act number by number, so the vectors may lie in any order, and lie sorted by expert.

    up:    x [... dim] -> W1_e x of the entries, as [... k hidden]
    down:  a [... k hidden] -> sum over the token's entries of g W2_e a, [... dim]

A block is not found where a layer with weights of its own (a norm, a convolution) acts on the
hidden vectors, or where the layers are no `nn.Linear`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from taskgrove.sharing.choice import Point
from taskgrove.sharing.chosen import Chosen, combine, spread
from taskgrove.sharing.grouped import grouped
from taskgrove.sharing.route import Route

ATTENTION = {"q", "k", "v", "query", "key", "value", "q_proj", "k_proj", "v_proj",
             "q_lin", "k_lin", "v_lin", "qkv", "qkv_proj", "query_key_value", "Wqkv"}  # fmt: skip
Stack = tuple[Tensor, Tensor | None]  # W [expert out dim], b [expert out]


@dataclass(frozen=True)
class FeedForward:
    """A block by its layers' names; `joined`: one layer makes gate and hidden, half each."""

    ups: tuple[str, ...]
    down: str
    dim: int
    hidden: int
    joined: bool = False


def feed_forwards(trunk: nn.Module) -> list[FeedForward]:
    """All blocks, in the order of their last layers."""
    linears = {n: m for n, m in trunk.named_modules() if isinstance(m, nn.Linear)}
    found = [_block(trunk, linears, name) for name in linears]
    return [block for block in found if block is not None]


def _block(trunk: nn.Module, linears: dict[str, nn.Linear], down: str) -> FeedForward | None:
    """The block that ends at a layer: its first layers stand nearest in the tree of modules."""
    dim, hidden = linears[down].out_features, linears[down].in_features
    fit = [
        name
        for name, layer in linears.items()
        if layer.in_features == dim and layer.out_features in (hidden, 2 * hidden)
        if name.split(".")[-1] not in ATTENTION
    ]
    near = max((_common(name, down) for name in fit), default=0)
    ups = tuple(name for name in fit if _common(name, down) == near)
    if hidden <= dim or not 1 <= len(ups) <= 2:
        return None
    sizes = {linears[name].out_features for name in ups}
    around = ".".join(down.split(".")[:near])
    if len(sizes) > 1 or (len(ups) == 2 and sizes != {hidden}) or _weighs(trunk, around, hidden):
        return None
    return FeedForward(ups, down, dim, hidden, sizes == {2 * hidden})


def _common(a: str, b: str) -> int:
    """How many leading parts of two names are equal."""
    pairs = list(zip(a.split("."), b.split("."), strict=False))
    return next((n for n, (x, y) in enumerate(pairs) if x != y), len(pairs))


def _weighs(trunk: nn.Module, around: str, hidden: int) -> bool:
    """Whether a layer other than a linear one has a weight for each hidden number."""
    others = [m for m in trunk.get_submodule(around).modules() if not isinstance(m, nn.Linear)]
    return any(hidden in p.shape[:1] for m in others for p in m.parameters(recurse=False))


class Between:
    """The points of some blocks, and what lies between two of them in a batch.

    `choose(block, x, route)` picks each token's experts from x [entry token dim]; `stack(layer)`
    gives the experts' weights for a layer of the trunk.
    """

    def __init__(
        self,
        blocks: list[FeedForward],
        choose: Callable[[int, Tensor, Route], Chosen],
        stack: Callable[[str], Stack],
    ) -> None:
        self.blocks, self.choose, self.stack = blocks, choose, stack
        self.kept: dict[int, tuple[Tensor, Tensor, Chosen]] = {}

    def points(self) -> dict[str, Point]:
        """In place of each block's linear layers."""
        found = {}
        for n, block in enumerate(self.blocks):
            found |= {up: Point("instead", partial(self._up, n, up)) for up in block.ups}
            found[block.down] = Point("instead", partial(self._down, n))
        return found

    def forget(self) -> None:
        """Drops what a batch left."""
        self.kept.clear()

    def _up(self, n: int, up: str, x: Tensor, route: Route) -> Tensor:
        if n not in self.kept or self.kept[n][0] is not x:
            chosen = self.choose(n, x.reshape(route.starts[-1], -1, x.shape[-1]), route)
            self.kept[n] = x, spread(x.reshape(-1, x.shape[-1]), chosen), chosen
        _, entries, chosen = self.kept[n]
        W, b = self.stack(up)
        h = grouped(entries, W, chosen.route, b)  # [entry hidden], twice hidden where joined
        if self.blocks[n].joined:
            h = h.view(*x.shape[:-1], chosen.count, 2, -1).transpose(-2, -3)
        return h.reshape(*x.shape[:-1], -1)

    def _down(self, n: int, a: Tensor, route: Route) -> Tensor:  # noqa: ARG002
        W, b = self.stack(self.blocks[n].down)
        chosen = self.kept.pop(n)[2]
        y = grouped(a.reshape(len(chosen.route.rows), -1), W, chosen.route, b)
        return combine(y, chosen).view(*a.shape[:-1], -1)


def layer(trunk: nn.Module, name: str) -> Any:
    """A linear layer of the trunk by name."""
    return trunk.get_submodule(name)
