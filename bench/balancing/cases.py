"""The cases: a trunk, K heads and data from a seed. Torch alone, so both environments build them.

A step of a case is a forward pass, K losses and whatever fills `.grad` of trunk and heads; the
floor is the backward pass of the plain sum of the losses. Batches have 64 rows, except that of the
transformer with one input: 16 sequences of 32 tokens, so that tokens (512) exceed width (128).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class Case:
    """K tasks over a trunk. `inputs` holds one tensor that all share, or K of the same shape.

    `level`: of what the gradients are balanced. `every`: the Gramian's age in steps at most.
    """

    trunk: nn.Module
    heads: nn.ModuleList
    inputs: list[Tensor]
    targets: list[Tensor]
    level: Literal["parameters", "features"] = "parameters"
    every: int = 1

    @property
    def tasks(self) -> int:
        return len(self.heads)

    @property
    def own(self) -> bool:
        """Whether each task brings a batch of its own."""
        return len(self.inputs) > 1

    def shared(self) -> list[nn.Parameter]:
        return list(self.trunk.parameters())

    def parameters(self) -> Iterator[nn.Parameter]:
        yield from self.trunk.parameters()
        yield from self.heads.parameters()

    def features(self) -> list[Tensor]:
        """A forward pass of the trunk for each batch."""
        return [self.trunk(x) for x in self.inputs]

    def joined(self) -> Tensor:
        """One forward pass of the trunk for all K batches; [task batch ... dim]."""
        return self.trunk(torch.stack(self.inputs))

    def losses(self, features: list[Tensor] | Tensor | None = None) -> list[Tensor]:
        """K scalars, each the mean over the rows of its task."""
        found = self.features() if features is None else features
        one = len(found) == 1
        return [
            functional.mse_loss(head(found[0 if one else task]), self.targets[task])
            for task, head in enumerate(self.heads)
        ]


def plain(case: Case) -> None:
    """The floor: backward of the sum, through the same graphs.

    For tasks with batches of their own, one joined forward pass instead costs the same within 10 %.
    """
    torch.stack(case.losses()).sum().backward()


class Positions(nn.Module):
    """Adds a learned vector to each position; a module of its own, as torchjd's engine asks."""

    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.table = nn.Parameter(0.02 * torch.randn(tokens, width))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.table


class Block(nn.Module):
    """A pre-norm block for any leading dimensions, [... token dim].

    Attention is written out, since torch's counter does not know the CPU's fused kernel.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1))
        q, k, v = parts.movedim(-3, 0).transpose(-2, -3)  # [... head token dim]
        scores = (q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5
        x = x + self.out((scores.softmax(-1) @ v).transpose(-2, -3).flatten(-2))
        return x + self.down(functional.gelu(self.up(self.norm2(x))))


class MeanToken(nn.Module):
    """[... token dim] -> [... dim]."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(-2)


def mlp(*widths: int) -> nn.Sequential:
    """Linear layers, each followed by a ReLU."""
    return nn.Sequential(*(m for a, b in pairwise(widths) for m in (nn.Linear(a, b), nn.ReLU())))


def transformer(width: int, blocks: int, tokens: int) -> nn.Sequential:
    """Tokens of 256 kinds -> the mean of the last block's outputs."""
    return nn.Sequential(
        nn.Embedding(256, width),
        Positions(tokens, width),
        *(Block(width, 4) for _ in range(blocks)),
        nn.LayerNorm(width),
        MeanToken(),
    )


def rows(trunk: nn.Module, width: int, head: Callable[[], nn.Module], K: int, own: bool) -> Case:
    """64 rows of `width` numbers, for all tasks or for each."""
    inputs = [torch.randn(64, width) for _ in range(K if own else 1)]
    heads = nn.ModuleList(head() for _ in range(K))
    return Case(trunk, heads, inputs, [torch.randn(64, 1) for _ in range(K)])


def sequences(K: int, own: bool, shape: tuple[int, int, int], every: int = 1) -> Case:
    """Sequences of tokens; `shape`: sequences, tokens, width."""
    rows, tokens, width = shape
    inputs = [torch.randint(256, (rows, tokens)) for _ in range(K if own else 1)]
    heads = nn.ModuleList(nn.Linear(width, 1) for _ in range(K))
    targets = [torch.randn(rows, 1) for _ in range(K)]
    return Case(transformer(width, 4, tokens), heads, inputs, targets, every=every)


def own_mlp(quick: bool) -> Case:
    """Each task its own batch, K = 10, MLP of 0.8 M."""
    w = 32 if quick else 512
    return rows(mlp(w // 2, w, w, w, w // 2), w // 2, lambda: nn.Linear(w // 2, 1), 10, own=True)


def own_transformer(quick: bool) -> Case:
    """Each task its own 64 sequences of 8 tokens, K = 10, transformer of 0.2 M, 64 wide."""
    return sequences(10, own=True, shape=(4, 4, 16) if quick else (64, 8, 64))


def one_mlp(quick: bool) -> Case:
    """One input, K = 20, MLP of 0.95 M."""
    widths = (40, 48, 24) if quick else (784, 800, 400)
    return rows(mlp(*widths), widths[0], lambda: nn.Linear(widths[-1], 1), 20, own=False)


def one_transformer(quick: bool) -> Case:
    """One input of 512 tokens, K = 20, transformer of 0.8 M and width 128."""
    return sequences(20, own=False, shape=(4, 8, 16) if quick else (16, 32, 128))


def one_transformer_every_5(quick: bool) -> Case:
    """The same with the Gramian refreshed every 5 steps."""
    return sequences(20, own=False, shape=(4, 8, 16) if quick else (16, 32, 128), every=5)


def features(quick: bool) -> Case:
    """One input, K = 20, gradients of the shared features, heads with a hidden layer."""
    w = (40, 48, 24) if quick else (784, 800, 400)
    head = lambda: nn.Sequential(nn.Linear(w[-1], 32), nn.ReLU(), nn.Linear(32, 1))  # noqa: E731
    case = rows(mlp(*w), w[0], head, 20, own=False)
    return Case(case.trunk, case.heads, case.inputs, case.targets, level="features")


def features_transformer(quick: bool) -> Case:
    """The same at the features of the transformer, linear heads."""
    case = sequences(20, own=False, shape=(4, 8, 16) if quick else (16, 32, 128))
    return Case(case.trunk, case.heads, case.inputs, case.targets, level="features")


def memory(quick: bool) -> Case:
    """One input, K = 5, MLP of ten layers 1024 wide: 40 MiB of gradients."""
    w = 64 if quick else 1024
    return rows(mlp(*[w] * 11), w, lambda: nn.Linear(w, 1), 5, own=False)


CASES: dict[str, Callable[[bool], Case]] = {
    "own-mlp": own_mlp,
    "own-transformer": own_transformer,
    "one-mlp": one_mlp,
    "one-transformer": one_transformer,
    "one-transformer-5": one_transformer_every_5,
    "features": features,
    "features-transformer": features_transformer,
    "memory": memory,
}


def build(name: str, quick: bool = False) -> Case:
    """The same numbers wherever it runs."""
    torch.manual_seed(0)
    return CASES[name](quick)
