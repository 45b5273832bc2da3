"""Ways to one embedding model: joint steps, a learned position, tuning on a probe."""

from collections.abc import Mapping
from itertools import combinations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from taskgrove.merging.learned.self_positioning import self_positioning
from taskgrove.merging.learned.vectors import Vectors
from taskgrove.mixing.static import rates
from taskgrove.suites.embedding_pairs import TASKS
from taskgrove.systems.debian.top_layers import Weights
from taskgrove.systems.embedding.setting import RATE, Setting
from taskgrove.systems.system import Found

LEARNING_RATE, INIT, LEAST_BATCHES = 0.03, 1.0, 4  # of the position; what `relative` reads


def schedule(sizes: Mapping[str, int], temperature: float, steps: int, seed: int) -> list[str]:
    """The task of each step: as many of each as its rate says, in a random order."""
    shares = rates(sizes, temperature)
    bounds = np.cumsum(list(shares.values()))
    places = np.searchsorted(bounds, (np.arange(steps) + 0.5) / steps)
    return [list(shares)[i] for i in np.random.default_rng(seed).permutation(places)]


def cosines(G: Float[Tensor, "task batch dim"]) -> list[float]:
    """Between the gradients of any two tasks, batch by batch."""
    unit = torch.nn.functional.normalize(G, dim=-1)
    pairs = combinations(range(len(G)), 2)
    return [float(c) for i, j in pairs for c in (unit[i] * unit[j]).sum(-1)]


def position(s: Setting, vectors: Vectors, relative: bool) -> tuple[Weights, Found]:
    """The merged weights whose position is learned, and the position."""
    steps = max(s.size.learned, LEAST_BATCHES)
    batches = {task: [draw() for _ in range(steps)] for task, draw in s.draws("probe").items()}
    path: list[list[float]] = []

    def keep(state: Mapping[str, Tensor]) -> None:
        path.append([*state["coefficients"].softmax(0).tolist(), state["scale"].item()])

    found = self_positioning(
        lambda W, _, batch: s.loss(W, batch), vectors,
        {task: (lambda step, mine=mine: mine[step]) for task, mine in batches.items()},
        steps=s.size.learned, learning_rate=LEARNING_RATE, init=INIT, relative=relative,
        validate=lambda W: s.scores(W, "probe")["mean"], every=s.size.every, models=TASKS,
        progress=keep,
    )  # fmt: skip
    return found.weights, {
        "weights": found.w.tolist(), "scale": found.m, "losses": found.losses.tolist(),
        "probe": found.scores.tolist(), "notes": list(found.notes), "path": path,
    }  # fmt: skip


def tuned(s: Setting, weights: Weights) -> Weights:
    """All upper weights trained on the probe; of the looks at its metric, the best."""
    W = {name: w.clone().requires_grad_() for name, w in weights.items()}
    adam, draws = torch.optim.Adam(W.values(), lr=RATE), s.draws("probe")
    best, kept = s.scores(W, "probe")["mean"], dict(weights)
    for step in range(1, s.size.learned + 1):
        adam.zero_grad()
        for draw in draws.values():
            (s.loss(W, draw()) / len(draws)).backward()
        adam.step()
        if step % s.size.every == 0 and (score := s.scores(W, "probe")["mean"]) > best:
            best, kept = score, {name: w.detach().clone() for name, w in W.items()}
    return kept
