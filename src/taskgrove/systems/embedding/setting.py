"""Four tasks of text pairs, one encoder whose upper layers train, and how both are drawn by a seed.

Each seed draws its own rows to train on, its probe and its test rows from parts that share no
package and no word stem. What the frozen layers say of a text is computed once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from taskgrove.measuring.pair_score import pair_score
from taskgrove.objectives.pair_loss import pair_loss
from taskgrove.suites.docstring_pairs import docstrings
from taskgrove.suites.embedding_pairs import SIZES, TASKS, Pair, pairs
from taskgrove.systems.debian.top_layers import (
    Encoder,
    Texts,
    Weights,
    minilm_encoder,
    tiny_encoder,
)
from taskgrove.tasks.pairs import Draw, PairBatch, Pairs

DEVELOPMENT = 1000  # seeds from here on are for settings: their tests are rows no claim reads
RATE = 1e-4  # Adam's
TOGETHER = 64  # texts that are embedded in one pass


@dataclass(frozen=True)
class Size:
    """How large the experiment is."""

    rows: Mapping[str, int]  # to train on, by task
    steps: int = 30  # on a task alone; joint training has as many for each
    batch: int = 12
    probe: int = 64
    test: int = 200
    learned: int = 30  # steps on the probe, of `probe_batch` pairs of each task
    probe_batch: int = 8
    every: int = 10  # of them between two looks at its metric


FULL = Size(SIZES)
QUICK = Size({"retrieval": 40, "translation": 12, "role": 8, "valence": 6}, 2, 4, 12, 12, 2, 4, 1)


@dataclass(frozen=True)
class Setting:
    """What the arms of a seed share; `rows`: {train, probe, test: {task: rows}}."""

    seed: int
    size: Size
    encoder: Encoder
    rows: Mapping[str, Mapping[str, Pairs]]
    kept: dict[str, Float[Tensor, "token dim"]]  # by text, from the frozen layers

    def embed(self, weights: Weights, texts: Sequence[str]) -> Float[Tensor, "text dim"]:
        """Unit vectors."""
        new = [text for text in dict.fromkeys(texts) if text not in self.kept]
        if new:
            read = self.encoder.read(new, batch=1)  # the same bits whichever arm asks first
            self.kept.update(zip(new, read.tokens.split(read.lengths.tolist()), strict=True))
        several = [self.kept[text] for text in texts]
        lengths = torch.tensor([len(tokens) for tokens in several])
        return normalize(self.encoder.features(weights, Texts(torch.cat(several), lengths)), dim=-1)

    def loss(self, weights: Weights, batch: PairBatch) -> Float[Tensor, ""]:
        """InfoNCE at temperature 0.05."""
        return pair_loss(lambda texts: self.embed(weights, texts), batch)

    def draws(self, part: str) -> dict[str, Draw]:
        """A stream of batches of each task; the same in every arm."""
        size = self.size.batch if part == "train" else self.size.probe_batch
        return {task: Draw(rows, size, self.seed) for task, rows in self.rows[part].items()}

    @torch.no_grad()
    def scores(self, weights: Weights, part: str) -> dict[str, float]:
        """0 to 100, by task, and their mean."""

        def embed(texts: list[str]) -> np.ndarray:
            order = np.argsort([len(text) for text in texts], kind="stable")
            several = [order[i : i + TOGETHER] for i in range(0, len(order), TOGETHER)]
            parts = [self.embed(weights, [texts[i] for i in some]) for some in several]
            return torch.cat(parts).numpy()[np.argsort(order)]

        found = {task: pair_score(embed, rows) for task, rows in self.rows[part].items()}
        return {**found, "mean": float(np.mean(list(found.values())))}

    def train(self, weights: Weights, tasks: Sequence[str]) -> Weights:
        """Adam from `weights`: a step a task of `tasks`, on its next batch."""
        W = {name: w.clone().requires_grad_() for name, w in weights.items()}
        adam, draws = torch.optim.Adam(W.values(), lr=RATE), self.draws("train")
        for task in tasks:
            adam.zero_grad()
            self.loss(W, draws[task]()).backward()
            adam.step()
        return {name: w.detach() for name, w in W.items()}

    def gradients(self, weights: Weights, batches: int) -> Float[Tensor, "task batch dim"]:
        """Of each task's loss, on its first batches."""
        W = {name: w.detach().clone().requires_grad_() for name, w in weights.items()}

        def gradient(batch: PairBatch) -> Tensor:
            found = torch.autograd.grad(self.loss(W, batch), list(W.values()), allow_unused=True)
            some = [g if g is not None else w for g, w in zip(found, W.values(), strict=True)]
            return torch.cat([g.flatten() for g in some])

        return torch.stack(
            [
                torch.stack([gradient(draw()) for _ in range(batches)])
                for draw in self.draws("train").values()
            ]
        )


@lru_cache(maxsize=1)
def setting(seed: int, quick: bool) -> Setting:
    """A seed's; the last one is kept, since its arms follow each other."""
    size = QUICK if quick else FULL
    encoder = tiny_encoder() if quick else minilm_encoder()
    table = docstrings() if quick else pairs()
    random, held_out = np.random.default_rng(seed), size.probe + size.test
    rows: dict[str, dict[str, Pairs]] = {"train": {}, "probe": {}, "test": {}}
    for task in TASKS:
        mine = [pair for pair in table if pair.task == task]
        several = sorted({pair.label for pair in mine})
        drawn = {
            split: _some(mine, split, random, count, several)
            for split, count in [
                ("train", size.rows[task]), ("probe", held_out), ("test", size.test)
            ]
        }  # fmt: skip
        rest = drawn["probe"].take(range(size.probe, len(drawn["probe"])))
        rows["train"][task] = drawn["train"]
        rows["probe"][task] = drawn["probe"].take(range(size.probe))
        rows["test"][task] = drawn["test"] if seed < DEVELOPMENT else rest
    return Setting(seed, size, encoder, rows, {})


def _some(
    mine: Sequence[Pair], split: str, random: np.random.Generator, count: int, several: list[str]
) -> Pairs:
    """Some of a task's rows of a split, in a random order."""
    rows = [pair for pair in mine if pair.split == split]
    chosen = [rows[i] for i in random.permutation(len(rows))[:count]]
    first = [pair.query for pair in chosen]
    if several == [""]:
        return Pairs(mine[0].task, first, [pair.positive for pair in chosen])
    return Pairs(mine[0].task, first, classes=[several.index(pair.label) for pair in chosen])
