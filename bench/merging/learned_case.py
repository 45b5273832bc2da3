"""A layer-wise AdaMerging step of K models with 10 M parameters: what both sides share.

A BERT encoder as transformers builds it (P = 10.0 M), dropout off; K tasks, each with a frozen
linear head of 10 classes and a batch of 16 rows of 16 tokens a step. The models lie on disk, in
fp32. The floor: the same batches through the same model with plain weights, forward and backward.
Time: CPU seconds of one thread. Memory: the process's peak less what it held before any model was
made, in multiples of the P numbers' bytes; the loading of the models counts.
"""

import itertools
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import BertConfig, BertModel

ROWS, TOKENS, CLASSES, FLOOR_STEPS = 16, 16, 10, 3
SIZES = {
    "full": {"vocab_size": 8192, "hidden_size": 256, "num_hidden_layers": 10},
    "quick": {"vocab_size": 512, "hidden_size": 32, "num_hidden_layers": 2},
}


def build(size: str) -> BertModel:
    """The encoder, with random weights of seed 0."""
    torch.manual_seed(0)
    shape = SIZES[size]
    dropout = dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob"), 0.0)
    width = shape["hidden_size"]
    config = BertConfig(
        **shape,
        **dropout,
        num_attention_heads=4,
        intermediate_size=4 * width,
        max_position_embeddings=64,
    )
    return BertModel(config, add_pooling_layer=False)


def write(folder: Path, models: int, size: str) -> list[Path]:
    """The base's folder and K tuned ones'."""
    base = build(size).state_dict()
    places = [folder / "base", *(folder / f"tuned{k + 1}" for k in range(models))]
    for k, place in enumerate(places):
        if (place / "model.safetensors").exists():
            continue
        place.mkdir(parents=True, exist_ok=True)
        generator = torch.Generator().manual_seed(k)
        step = 1e-3 if k else 0.0
        tensors = {
            name: w + step * torch.randn(w.shape, generator=generator) for name, w in base.items()
        }
        save_file(tensors, place / "model.safetensors")
    return places


def load(place: Path, size: str) -> BertModel:
    """A model of a folder."""
    model = build(size)
    model.load_state_dict(load_file(place / "model.safetensors"))
    return model


def batch(task: str, step: int, size: str) -> Tensor:
    """Token ids: [batch token]."""
    generator = torch.Generator().manual_seed(1000 * int(task) + step)
    return torch.randint(SIZES[size]["vocab_size"], (ROWS, TOKENS), generator=generator)


def head(task: str, size: str) -> Tensor:
    """[class dim]."""
    generator = torch.Generator().manual_seed(int(task))
    return torch.randn(CLASSES, SIZES[size]["hidden_size"], generator=generator)


def floor(place: Path, models: int, size: str) -> float:
    """CPU seconds of a step without merging; all P weights take gradients, as a merge's must."""
    model = load(place, size).train()
    tasks = [str(k) for k in range(models)]
    heads = {task: head(task, size) for task in tasks}

    def step(n: int) -> None:
        for task in tasks:
            states = model(input_ids=batch(task, n, size)).last_hidden_state
            log_p = (states[:, 0] @ heads[task].T).log_softmax(dim=-1)
            (-(log_p.exp() * log_p).sum(dim=-1)).mean().backward()
        model.zero_grad()

    return between(lambda stamp: [(stamp(), step(n)) for n in range(FLOOR_STEPS + 1)] and stamp())


def between(run: Callable[[Callable[[], None]], object]) -> float:
    """Median CPU seconds between the stamps that a run sets; the first step warms up."""
    stamps: list[float] = []
    run(lambda: stamps.append(time.process_time()))
    steps = [b - a for a, b in itertools.pairwise(stamps)]
    return statistics.median(steps[1:])


class Memory:
    """Peak above the start, in multiples of the model's bytes."""

    def __init__(self, size: str) -> None:
        small = nn.Linear(64, 64)
        small(torch.randn(8, 64)).sum().backward()  # libraries load at the first call
        with torch.device("meta"):
            self.parameters = sum(p.numel() for p in build(size).parameters())
        self.start = self.held()

    @staticmethod
    def held() -> int:
        """Most so far."""
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

    def multiple(self) -> float:
        return (self.held() - self.start) / (4 * self.parameters)
