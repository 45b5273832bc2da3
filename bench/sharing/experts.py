"""Top-2 experts against a dense feed-forward layer of equal active FLOPs: CPU time of one thread.

    python bench/sharing/experts.py [--repeats 15]

Dense: dim -> 4 dim -> dim with gelu; experts of hidden 2 dim, two for each token, by a router drawn
at random, whose cost (product, softmax, top 2, sort) counts. Dense and experts run in turn; a ratio
is the median of the pairs' ratios. `train`: forward and backward to inputs and all weights, whose
gradients are dropped after each step. With E experts a group has 2 tokens / E rows: weights that
few rows use cost their reading, and their gradients their writing.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from taskgrove.sharing.experts import MixtureOfExperts
from taskgrove.sharing.route import Route
from taskgrove.sharing.routers import TokenRouter

BARS = {8: (1.20, 1.20), 16: (1.30, 1.25), 64: (1.80, 2.50)}
SHAPES = ((256, 1024), (256, 4096), (768, 1024), (768, 4096))  # dim, tokens


class Dense(nn.Module):
    """up, gelu, down."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(gelu(self.up(x)))


def seconds(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def ratio(ours: Callable[[], object], floor: Callable[[], object], repeats: int) -> float:
    """The median over pairs of runs."""
    ours()
    floor()
    pairs = [(seconds(floor), seconds(ours)) for _ in range(repeats)]
    return statistics.median(b / a for a, b in pairs)


def steps(run: Callable[[], Tensor], module: nn.Module, x: Tensor, signal: Tensor):
    """A forward pass without a graph, and one with its backward pass."""

    def forward() -> None:
        with torch.no_grad():
            run()

    def train() -> None:
        run().backward(signal)
        for parameter in (*module.parameters(), x):
            parameter.grad = None

    return forward, train


def case(dim: int, tokens: int, experts: int, repeats: int) -> tuple[float, float]:
    """The two ratios."""
    torch.manual_seed(0)
    dense = Dense(dim)
    router = TokenRouter(experts, dim)
    nn.init.normal_(router.W)
    ours = MixtureOfExperts(dim, 2 * dim, experts, router, renormalise=True)
    x, signal = torch.randn(1, tokens, dim, requires_grad=True), torch.randn(1, tokens, dim)
    route = Route((), torch.arange(1), (0, 1))
    floor = steps(lambda: dense(x), dense, x, signal)
    found = steps(lambda: ours(x, route)[0], ours, x, signal)
    forward, train = (ratio(a, b, repeats) for a, b in zip(found, floor, strict=True))
    return forward, train


def main() -> None:
    """A line a shape and number of experts."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=15)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    print("dim  tokens experts  forward (bar)  train (bar)")
    for dim, tokens in SHAPES:
        for experts, bars in BARS.items():
            forward, train = case(dim, tokens, experts, repeats)
            print(f"{dim:4} {tokens:6} {experts:7}  {forward:7.2f} ({bars[0]:.2f})"
                  f"  {train:5.2f} ({bars[1]:.2f})", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
