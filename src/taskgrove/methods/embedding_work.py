"""Embedding weights at work on pairs: their vectors, losses, scores, and the picture of a merge."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import functional_call
from torch.nn.functional import normalize

from taskgrove.backbones.transformer import TransformerEncoder
from taskgrove.measuring.pair_score import pair_score
from taskgrove.measuring.triangle import grid, triangle
from taskgrove.merging.learned.vectors import Vectors, add_scaled
from taskgrove.objectives.pair_loss import pair_loss
from taskgrove.tasks.pairs import Draw, PairBatch, Pairs

TOGETHER = 64  # texts that are embedded in one pass
LEAST_BATCHES = 4  # that must be there, however few the steps
Weights = dict[str, Tensor]
Batches = dict[str, Callable[[int], PairBatch]]


@dataclass(frozen=True)
class Work:
    """One encoder that takes any of the weights."""

    encoder: TransformerEncoder
    temperature: float

    def embed(self, weights: Weights, texts: Sequence[str]) -> Tensor:
        """Unit vectors [text dim]."""
        inputs = self.encoder.prepare({"text": list(texts)})
        named = {f"model.{name}": w for name, w in weights.items()}
        return normalize(functional_call(self.encoder, named, (inputs,)), dim=-1)

    def loss(self, weights: Weights, task: str, batch: PairBatch) -> Tensor:  # noqa: ARG002
        return pair_loss(lambda texts: self.embed(weights, texts), batch, self.temperature)

    @torch.no_grad()
    def scores(self, weights: Weights, tasks: dict[str, Pairs]) -> dict[str, float]:
        """0 to 100, by task."""

        def embed(texts: list[str]) -> np.ndarray:
            parts = [texts[i : i + TOGETHER] for i in range(0, len(texts), TOGETHER)]
            return torch.cat([self.embed(weights, part) for part in parts]).numpy()

        return {task: pair_score(embed, rows) for task, rows in tasks.items()}


def weights_of(encoder: TransformerEncoder) -> Weights:
    """What the features depend on, by the names of transformers."""
    named = encoder.model.named_parameters()
    return {name: w.detach().clone() for name, w in named if w.requires_grad}


def batches(tasks: Mapping[str, Pairs], size: int, seed: int, steps: int) -> Batches:
    """Each task's batch of each step."""

    def of(rows: Pairs) -> Callable[[int], PairBatch]:
        draw = Draw(rows, size, seed)
        drawn = [draw() for _ in range(max(steps, LEAST_BATCHES))]
        return partial(_at, drawn)

    return {task: of(rows) for task, rows in tasks.items()}


def _at(drawn: list[PairBatch], step: int) -> PairBatch:
    return drawn[step]


@torch.no_grad()
def draw_triangle(
    work: Work,
    vectors: Vectors,
    draws: Batches,
    names: Sequence[str],
    path: Float[np.ndarray, "step 3"],
    kept: tuple[Float[Tensor, " 3"], float],  # w and m
    file: Path,
) -> None:
    """The mean loss of one batch a task over the weights of three models, at the scale kept."""
    (w_kept, m), points = kept, grid()
    losses = []
    for w in points:
        theta: Weights = {}
        for name in vectors.names:
            theta[name] = vectors.base(name)
            add_scaled(vectors.blocks(name), torch.tensor(m * w, dtype=torch.float32), theta[name])
        losses.append(np.mean([work.loss(theta, t, at(0)).item() for t, at in draws.items()]))
    title = f"the position, at scale {m:.2f}"
    triangle(names, path, w_kept.numpy(), points, np.array(losses), title, file)
