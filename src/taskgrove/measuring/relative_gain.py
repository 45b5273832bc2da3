"""Relative gain over separate models (delta-m).

Attentive Single-Tasking of Multiple Tasks. K.-K. Maninis, I. Radosavovic, I. Kokkinos, 2019.
https://arxiv.org/abs/1904.08918
Multi-Task Learning for Dense Prediction Tasks: A Survey. S. Vandenhende et al., 2021.
https://arxiv.org/abs/2004.13379

    delta_m = 100 / T  sum_t (-1)^(l_t) (M_t - S_t) / S_t         in percent

    M [... task]  the method's score            S [... task]  the score of a separate model
    l [task]      1 where lower is better, else 0

Differs from the papers: a task whose S_t is not above 0 (an r2 of -0.1, an error of 0) has no
relative gain; it is NaN here, is left out of the mean, and is named.
"""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Float

from taskgrove.errors import TaskgroveError, listed


def gain_per_task(
    M: Float[np.ndarray, "..."],
    S: Float[np.ndarray, "..."],
    higher_is_better: bool | Bool[np.ndarray, "..."],
) -> Float[np.ndarray, "..."]:
    """Each task's part of delta-m, in percent; NaN where it has none. Any shapes that broadcast."""
    sign = np.where(higher_is_better, 1.0, -1.0)
    gain = 100 * sign * (M - S)
    S = np.broadcast_to(S, gain.shape)
    return np.divide(gain, S, out=np.full(gain.shape, np.nan), where=S > 0)


def relative_gain(
    M: Float[np.ndarray, "*any task"],
    S: Float[np.ndarray, "*#any task"],
    higher_is_better: Bool[np.ndarray, " task"],
) -> Float[np.ndarray, "*any"]:
    """delta-m over the last axis: the mean over the tasks that have a gain; NaN where none has."""
    gain = gain_per_task(M, S, higher_is_better)
    has = ~np.isnan(gain)
    T = has.sum(-1)
    total = np.where(has, gain, 0.0).sum(-1)
    return np.divide(total, T, out=np.full(T.shape, np.nan), where=T > 0)


def delta_m(
    scores: Mapping[str, float], single: Mapping[str, float], higher_is_better: Mapping[str, bool]
) -> tuple[float, list[str]]:
    """delta-m of scores by task name, and the names of the tasks left out.

    >>> delta_m({"a": 0.9, "b": 3.0}, {"a": 0.8, "b": 4.0}, {"a": True, "b": False})
    (18.75, [])
    """
    if missing := [task for task in scores if task not in single or task not in higher_is_better]:
        raise TaskgroveError(
            f"no separate model's score, or no direction, for {listed(missing)}; "
            "delta-m needs both for each task that has a score."
        )
    M = np.array([scores[task] for task in scores], dtype=np.float64)
    S = np.array([single[task] for task in scores], dtype=np.float64)
    higher = np.array([higher_is_better[task] for task in scores], dtype=bool)
    without = np.isnan(gain_per_task(M, S, higher))
    left_out = [task for task, out in zip(scores, without, strict=True) if out]
    return float(relative_gain(M, S, higher)), left_out
