"""Git Re-Basin on real data: two runs from different seeds, before and after alignment.

python bench/merging/rebasin.py                     trains, aligns, prints one line a model
python bench/merging/rebasin.py --growth            seconds of a matching as width grows

Data: scikit-learn's digits, 1797 real pictures of 8 x 8; a third is kept for testing. Barrier: the
highest loss on the straight path between the two models, less the mean of its ends (the paper's
definition). Nothing is chosen by test rows; widths and steps were fixed before the first run.
"""

import argparse
import time
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.func import functional_call

from taskgrove.merging.aligned.permutations import Block, Group, Symmetries
from taskgrove.merging.aligned.rebasin import weight_matching
from taskgrove.methods.merge_rebasin import align, state_of

SEEDS, STEPS, ROWS, PATH = 5, 1500, 128, 11


class Vit(nn.Module):
    """Patches of 2 x 2, pre-norm blocks, the mean of the tokens."""

    def __init__(self, width: int = 128, depth: int = 2, heads: int = 4):
        super().__init__()
        self.patches = nn.Conv2d(1, width, 2, 2)
        self.places = nn.Parameter(torch.randn(16, width) * 0.02)
        how: dict[str, Any] = {"dropout": 0.0, "batch_first": True, "norm_first": True}
        blocks = [nn.TransformerEncoderLayer(width, heads, 4 * width, **how) for _ in range(depth)]
        self.blocks = nn.Sequential(*blocks)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of [row 1 8 8] pictures."""
        x = self.patches(x).flatten(2).transpose(1, 2) + self.places
        return self.head(self.norm(self.blocks(x)).mean(1))


def mlp(width: int) -> nn.Module:
    """Two hidden layers."""
    first = [nn.Flatten(), nn.Linear(64, width), nn.ReLU()]
    return nn.Sequential(*first, nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10))


def cnn(width: int) -> nn.Module:
    """Three convolutions with layer norms over the channels, mean over places."""
    layers: list[nn.Module] = []
    for n, inputs in enumerate((1, width, width)):
        layers += [nn.Conv2d(inputs, width, 3, 1 + (n == 1), 1), nn.GroupNorm(1, width), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))


MODELS = {
    "mlp 32": lambda: mlp(32),
    "mlp 128": lambda: mlp(128),
    "mlp 512": lambda: mlp(512),
    "cnn 32": lambda: cnn(32),
    "cnn 64": lambda: cnn(64),
    "vit 64": lambda: Vit(64),
}


def data() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Pictures and labels: train, test."""
    pictures, labels = load_digits(return_X_y=True)
    pictures = (pictures / 16 - 0.3).astype("float32").reshape(-1, 1, 8, 8)
    how: dict[str, Any] = {"test_size": 1 / 3, "random_state": 0, "stratify": labels}
    x, test_x, y, test_y = map(torch.from_numpy, train_test_split(pictures, labels, **how))
    return x, y, test_x, test_y


def trained(make: Any, seed: int, x: Tensor, y: Tensor) -> nn.Module:
    """AdamW with a cosine schedule; seed decides start and order of rows."""
    torch.manual_seed(seed)
    model = make()
    optimiser = torch.optim.AdamW(model.parameters(), 1e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS)
    for _ in range(STEPS):
        rows = torch.randint(len(x), (ROWS,))
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
        optimiser.step()
        schedule.step()
    return model.eval()


@torch.no_grad()
def path(model: nn.Module, a: Any, b: Any, x: Tensor, y: Tensor) -> tuple[float, float, float]:
    """Barrier, accuracy of the ends, accuracy of the middle."""
    losses, right = [], []
    for t in np.linspace(0, 1, PATH, dtype="float32"):
        state = {n: torch.from_numpy((1 - t) * a[n] + t * b[n]) for n in a}
        logits = functional_call(model, state, x)
        losses.append(float(nn.functional.cross_entropy(logits, y)))
        right.append(float((logits.argmax(1) == y).float().mean()))
    ends = (losses[0] + losses[-1]) / 2
    return max(losses) - ends, (right[0] + right[-1]) / 2, right[PATH // 2]


def compare(name: str) -> None:
    """One line: means over pairs of seeds, smallest and largest."""
    x, y, test_x, test_y = data()
    rows, seconds = [], []
    for seed in range(SEEDS):
        a, b = (trained(MODELS[name], 2 * seed + n, x, y) for n in (0, 1))
        start = time.process_time()
        aligned = align([a, b], x[:2], seed)
        seconds.append(time.process_time() - start)
        before = path(a, state_of(a), state_of(b), test_x, test_y)
        after = path(a, *aligned.states, test_x, test_y)
        rows.append((*before, *after, aligned.before, aligned.after))
    mean, low, high = (f(np.array(rows), axis=0) for f in (np.mean, np.min, np.max))
    print(
        f"{name:8s} test: ends {mean[1]:.3f}; middle {mean[2]:.3f} [{low[2]:.3f} {high[2]:.3f}] ->"
        f" {mean[5]:.3f} [{low[5]:.3f} {high[5]:.3f}]; barrier {mean[0]:.2f} [{low[0]:.2f}"
        f" {high[0]:.2f}] -> {mean[3]:.2f} [{low[3]:.2f} {high[3]:.2f}]; cosine {mean[6]:.2f} ->"
        f" {mean[7]:.2f}; {np.mean(seconds):.2f} CPU s",
        flush=True,
    )


def growth() -> None:
    """Seconds of a matching of random models: width, then layers."""

    def seconds(width: int, layers: int) -> float:
        rng = np.random.default_rng(0)
        blocks = tuple(Block((f"w{n}",), (), (n, n + 1)) for n in range(layers))
        groups = tuple(
            Group(width, (), frozen="" if 0 < n < layers else "an end") for n in range(layers + 1)
        )
        shapes = {f"w{n}": (width, width) for n in range(layers)}
        found = Symmetries(groups, blocks, shapes)
        a, b = ({n: rng.normal(size=s).astype("float32") for n, s in shapes.items()} for _ in "ab")
        start = time.process_time()
        weight_matching(found, a, b)
        return time.process_time() - start

    for width in (128, 256, 512, 1024):
        print(f"3 layers of width {width}: {seconds(width, 3):.2f} CPU s", flush=True)
    for layers in (3, 5, 9, 17):
        print(f"{layers} layers of width 256: {seconds(256, layers):.2f} CPU s", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--growth", action="store_true")
    parser.add_argument("--only", choices=MODELS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.growth:
        growth()
    else:
        for name in [given.only] if given.only else MODELS:
            compare(name)
