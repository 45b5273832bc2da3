"""Intervals for scores and for delta-m: a paired hierarchical bootstrap over test rows and seeds.

An Introduction to the Bootstrap. B. Efron, R. Tibshirani, 1993.
Bootstrap Methods and their Application. A. Davison, D. Hinkley, 1997 (3.8, hierarchical data).

A resample draws the test rows of each task, and the seeds (see draws.py); all methods are scored on
the same draw, so that they are paired. An interval is the middle 95 % of the resamples.

    score [method seed draw]   draw 0 is the data itself, the others are resamples
    share [seed draw]          what each seed counts in the mean over seeds
    gain  [method seed draw]   of one task, in percent; delta-m is the mean over tasks

A task counts in delta-m if its separate models are shown to score above 0: the low end of their
interval is. Memory: the tasks pass one at a time, and `chunk_bytes` bounds the weights held.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from taskgrove.measuring.draws import draw_rows, draw_seeds, pools
from taskgrove.measuring.exam import Exam, Predictions, check
from taskgrove.measuring.metrics.resampling import ratio
from taskgrove.measuring.relative_gain import gain_per_task

Interval = tuple[float, float]


@dataclass(frozen=True)
class Standing:
    """How one method did."""

    scores: dict[str, list[float]]  # task: one per seed
    intervals: dict[str, Interval]  # task: of the mean over seeds
    delta_m: list[float]  # one per seed, in percent
    delta_m_mean: float
    delta_m_interval: Interval
    left_out: list[str]  # tasks that do not count in delta-m


def bootstrap(
    exams: Mapping[str, Exam],
    predictions: Predictions,
    *,
    baseline: str = "single",
    resamples: int = 1000,
    seed: int = 0,
    chunk_bytes: int = 2**24,
) -> dict[str, Standing]:
    """The standing of each method, the baseline's own among them (its gain is 0)."""
    check(exams, predictions, baseline)
    methods, base = list(predictions), list(predictions).index(baseline)
    share = draw_seeds(len(predictions[baseline]), resamples, seed)  # [seed draw]
    pool = pools(exams)
    total = np.zeros((len(methods), *share.shape))  # of the gains [method seed draw]
    count = np.zeros_like(total)
    scores: dict[str, np.ndarray] = {}  # task: [method seed]
    intervals: dict[str, list[Interval]] = {}  # task: one per method
    left_out: list[str] = []
    for task, exam in exams.items():
        rows = draw_rows(
            task,
            exam,
            pool.get(exam.table),
            resamples=resamples,
            seed=seed,
            chunk_bytes=chunk_bytes,
        )
        answers = [of_seed[task] for method in methods for of_seed in predictions[method]]
        score = _scores(exam, answers, rows, resamples).reshape(total.shape)
        scores[task] = score[..., 0]
        intervals[task] = [_middle((one * share).sum(0), exam.metric.range) for one in score]
        if not (intervals[task][base][0] > 0 and np.all(score[base, :, 0] > 0)):
            left_out.append(task)
            continue
        gain = gain_per_task(score, score[base], exam.metric.higher_is_better)
        total += np.nan_to_num(gain)
        count += ~np.isnan(gain)
    delta_m = ratio(total, count)  # [method seed draw]
    mean = (delta_m * share).sum(1)  # [method draw]
    return {
        method: Standing(
            scores={task: scores[task][m].tolist() for task in exams},
            intervals={task: intervals[task][m] for task in exams},
            delta_m=delta_m[m, :, 0].tolist(),
            delta_m_mean=float(mean[m, 0]),
            delta_m_interval=_middle(mean[m]),
            left_out=left_out,
        )
        for m, method in enumerate(methods)
    }


def _scores(
    exam: Exam,
    answers: list[np.ndarray],
    rows: Iterator[Float[np.ndarray, "chunk row"]],
    resamples: int,
) -> Float[np.ndarray, "answer draw"]:
    metric, target = exam.metric, exam.target
    score = np.empty((len(answers), 1 + resamples))
    score[:, 0] = [metric.score(answer, target) for answer in answers]
    first = 1
    for weights in rows:
        chunk = slice(first, first + len(weights))
        for a, answer in enumerate(answers):
            score[a, chunk] = metric.weighted(answer, target, weights)
        first += len(weights)
    return score


def _middle(draws: np.ndarray, within: Interval = (-np.inf, np.inf)) -> Interval:
    """The middle 95 % of the resamples that are defined, kept within the possible values."""
    defined = draws[1:][~np.isnan(draws[1:])]
    if len(defined) == 0:
        return float("nan"), float("nan")
    low, high = np.clip(np.quantile(defined, [0.025, 0.975]), *within)
    return float(low), float(high)
