"""An interval over test rows, where all seeds share one test part.

An Introduction to the Bootstrap. B. Efron, R. Tibshirani, 1993.

A claim's interval is over seeds; with one test part it does not tell how another part of the same
size could differ. This one draws rows of each task again and again, the same for both sides and
all seeds; the middle 95 % of the differences is the interval.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from taskgrove.measuring.bootstrap import Interval

Right = dict[str, str]  # task: a 1 for each row that was told right, else a 0


def over_rows(
    ours: Sequence[Right], theirs: Sequence[Right], resamples: int = 2000, seed: int = 0
) -> Interval:
    """Of the mean difference over seeds and tasks, in points; both sides [seed]."""
    rng, total = np.random.default_rng(seed), np.zeros(resamples)
    for task in ours[0]:
        a, b = ([np.frombuffer(each[task].encode(), np.uint8) for each in side]
                for side in (ours, theirs))  # fmt: skip
        gain = np.mean(a, axis=0) - np.mean(b, axis=0)  # [row]
        times = rng.multinomial(len(gain), np.full(len(gain), 1 / len(gain)), resamples)
        total += 100 * (times @ gain) / len(gain) / len(ours[0])
    low, high = np.quantile(total, [0.025, 0.975])
    return float(low), float(high)


def scored(right: Mapping[str, Tensor]) -> dict[str, Any]:
    """Accuracies in percent, their mean, and which rows were told right."""
    test = {task: 100 * rows.double().mean().item() for task, rows in right.items()}
    rows = {task: "".join(str(int(one)) for one in rows) for task, rows in right.items()}
    return {"test": test, "mean": sum(test.values()) / len(test), "right": rows}
