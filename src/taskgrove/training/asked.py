"""asked: the losses of some tasks of a batch that may be evaluated more than once.

Each table's rows run by themselves, under noise (dropout) of their own: so a task's loss is the
same, bit for bit, whichever others are asked for, and tables without a task that is asked for cost
nothing. The trunk runs on all rows of a table, as in the first evaluation: BatchNorm sees the same
batch.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from taskgrove.training.batch import Feed

# (tables, rows, {task: count in the joined batch}) -> a loss a task
Losses = Callable[[np.ndarray, np.ndarray, dict[str, int]], list[Tensor]]


def asked(
    losses: Losses,
    feed: Feed,
    every: Sequence[str],
    tables: np.ndarray,
    rows: np.ndarray,
    counts: dict[str, int],
    tasks: Sequence[int] | None = None,
) -> list[Tensor]:
    """The losses of some `tasks` (places in `every`) of the joined batch; all at once where None.

    For some it draws one number of the noise.
    """
    if tasks is None:
        return losses(tables, rows, counts)
    names = [every[task] for task in tasks]
    noise = int(torch.randint(2**31, ()))
    found: dict[str, Tensor] = {}
    for table, of_table in feed.tasks.items():
        if set(of_table) & set(names):
            mine, present = tables == table, [name for name in of_table if name in counts]
            torch.manual_seed(noise * 4096 + table)
            each = losses(tables[mine], rows[mine], {name: counts[name] for name in present})
            found |= dict(zip(present, each, strict=True))
    return [found[name] for name in names]
