"""Six fine-tunes of one MiniLM, a Debian task each: what the claims about merging merge.

The top two layers are tuned on a task through its frozen label-text head, from the published
weights, with AdamW along a cosine (as in Ilharco et al., ICLR 2023, arXiv 2212.04089). What a
seed's fine-tunes changed is kept in the user's cache, named by a digest of the code, rows and seed.

    tau_t = theta_t - theta_0        theta_0: MiniLM's top layers, 32 tensors; t: one of TASKS
"""

import math
import sys
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from taskgrove.merging.learned import rounds
from taskgrove.merging.learned.rounds import drawn
from taskgrove.systems.debian.debtag_models import Chosen, Substrate, kept, mark_of
from taskgrove.systems.debian.facet_rows import TASKS
from taskgrove.systems.debian.top_layers import Weights


def cosine(steps: int, rate: float, warm_up: float = 0.1) -> list[float]:
    """The rate of each step: up to `rate` along a line, then down along half a cosine."""
    warm = max(1, round(warm_up * steps))
    rising = [rate * (step + 1) / warm for step in range(warm)]
    rest = steps - warm
    return rising + [rate * (1 + math.cos(math.pi * n / rest)) / 2 for n in range(rest)]


def fit(
    world: Substrate,
    weights: Weights,
    draw: Callable[[int], Chosen],
    rates: Sequence[float],
    part: str = "train",
    first: int = 0,
) -> Weights:
    """All of the top layers tuned by AdamW, a step for each rate, on the rows `draw(step)`."""
    W = {name: w.clone().requires_grad_() for name, w in weights.items()}
    adam = torch.optim.AdamW(W.values())
    for step, rate in enumerate(rates, first):
        adam.param_groups[0]["lr"] = rate
        adam.zero_grad()
        world.loss(W, draw(step), part).backward()
        adam.step()
    return {name: w.detach() for name, w in W.items()}


def fine_tunes(world: Substrate) -> dict[str, Weights]:
    """{task: its own top layers}; tuned once."""
    base, (steps, rate, batch) = world.encoder.base(), tuning(world.quick)

    def make() -> dict[str, Tensor]:
        found = {}
        for task in TASKS:
            rows = torch.arange(len(world.parts[task]["train"].labels))

            def draw(step: int, task: str = task, rows: Tensor = rows) -> Chosen:
                return {task: drawn(rows, step, batch, world.seed)}

            tuned = fit(world, base, draw, cosine(steps, rate))
            found |= {f"{task}/{name}": w - base[name] for name, w in tuned.items()}
        return found

    mark = mark_of((rounds, sys.modules[__name__]), world.mark)
    tau = kept(f"debian-tuned-{mark}", make)
    return {task: {n: w + tau[f"{task}/{n}"] for n, w in base.items()} for task in TASKS}


def tuning(quick: bool) -> tuple[int, float, int]:
    """Steps, learning rate and rows of a step of a fine-tune."""
    return (2, 1e-3, 8) if quick else (48, 2e-4, 32)
