"""Rounds: which rows a step takes, a function of the step alone.

Rows are gone through in rounds, each in its own seeded order; a round is filled up from the next
one's, so that every batch is of one size unless all rows are fewer. Nothing is saved to resume.
"""

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor


def drawn(rows: Int[Tensor, " row"], step: int, batch: int, seed: int = 0) -> Int[Tensor, " some"]:
    """The rows of a step's batch.

    >>> rows = torch.arange(5)
    >>> sorted(torch.cat([drawn(rows, step, 2) for step in range(5)]).tolist())
    [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    """
    size = min(batch, len(rows))
    places = np.arange(step * size, (step + 1) * size)
    of = {int(n): _order(len(rows), int(n), seed) for n in np.unique(places // len(rows))}
    chosen = [of[int(place // len(rows))][place % len(rows)] for place in places]
    return rows[torch.tensor(chosen, dtype=torch.int64)]


def _order(rows: int, n: int, seed: int) -> np.ndarray:
    return np.random.Generator(np.random.Philox(key=[seed, n])).permutation(rows)
