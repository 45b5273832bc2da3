"""The exam of a task: its test rows, how answers are scored, and which rows are drawn together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Real

from taskgrove.errors import TaskgroveError, listed
from taskgrove.measuring.metrics.metric import Metric

Predictions = Mapping[str, Sequence[Mapping[str, np.ndarray]]]  # [method][seed][task]


@dataclass(frozen=True)
class Exam:
    metric: Metric
    target: Real[np.ndarray, "row *class"]
    keys: np.ndarray | None = None  # [row]; default: each row its own key
    table: str | None = None  # tasks of one table have keys in common


def check(exams: Mapping[str, Exam], predictions: Predictions, baseline: str) -> None:
    """Raises unless every method answers every exam, once per seed, in finite numbers."""
    if baseline not in predictions:
        raise TaskgroveError(
            f'gains are over the method "{baseline}", which is not among the predictions '
            f"(there are: {listed(predictions)}); run it too."
        )
    for task, exam in exams.items():
        _check_keys(task, exam)
    seeds = len(predictions[baseline])
    for method, of_method in predictions.items():
        if len(of_method) != seeds or seeds == 0:
            raise TaskgroveError(
                f'method "{method}" has {len(of_method)} seeds and "{baseline}" has {seeds}; '
                "a paired comparison needs the same seeds, at least one."
            )
        for number, of_seed in enumerate(of_method):
            for task, exam in exams.items():
                where = f'method "{method}", seed {number}, task "{task}"'
                if task not in of_seed:
                    raise TaskgroveError(f"{where}: no predictions (there are: {listed(of_seed)}).")
                _check_answer(where, of_seed[task], len(exam.target))


def _check_keys(task: str, exam: Exam) -> None:
    if exam.table is not None and exam.keys is None:
        raise TaskgroveError(f'task "{task}" names a table but no keys; give both or neither.')
    if exam.keys is not None and len(exam.keys) != len(exam.target):
        raise TaskgroveError(
            f'task "{task}" has {len(exam.keys)} keys for {len(exam.target)} test rows; '
            "give one key a row."
        )


def _check_answer(where: str, answer: np.ndarray, rows: int) -> None:
    if rows == 0:
        raise TaskgroveError(f"{where}: there are no test rows; give the task a test split.")
    if len(answer) != rows:
        raise TaskgroveError(f"{where}: {len(answer)} predictions for {rows} test rows.")
    broken = int((~np.isfinite(answer)).reshape(rows, -1).any(1).sum())
    if broken:
        raise TaskgroveError(
            f"{where}: {broken} of {rows} predictions are not finite numbers; training diverged, "
            "try a lower learning rate."
        )
