"""Predictions of a model on a split, and their scores.

Rows of a table run once through each trunk that serves one of its tasks. Processes take batches in
turn and share what they found. Predictions are in the user's terms: probabilities [row class] or
numbers [row]; they stand in the order of `TaskSet.rows(task, split)`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from taskgrove.measuring import metric_for
from taskgrove.sharing.model import MultiTaskModel
from taskgrove.tasks.task import MAPS, Task
from taskgrove.tasks.task_set import TaskSet
from taskgrove.training.batch import Batch, Feed, feed
from taskgrove.training.processes import gather, processes, this_device

Forward = Callable[[Batch], dict[str, Tensor]]


def in_user_terms(task: Task, output: Tensor) -> Tensor:
    """A head's output [row out] as probabilities [row class] or numbers [row], in fp32."""
    output = output.float()
    if task.kind in MAPS:
        return map_in_user_terms(task, output)
    if task.kind == "classes":
        return output.softmax(-1)
    if task.kind == "labels":
        return output.sigmoid()
    return output.squeeze(-1) * task.scale + task.center


def map_in_user_terms(task: Task, output: Tensor) -> Tensor:
    """Class numbers, depths or probabilities [row h w], or unit normals [row 3 h w]."""
    if task.kind == "segmentation":
        return output.argmax(1).to(torch.uint8)
    if task.kind == "normals":
        return torch.nn.functional.normalize(output, dim=1)
    if task.kind == "depth":
        return output[:, 0] * task.scale + task.center
    return output[:, 0].sigmoid()


def truth(task_set: TaskSet, name: str, rows: np.ndarray) -> np.ndarray:
    """The targets of labelled rows, in the user's terms."""
    if task_set.tasks[name].kind in MAPS:
        labels = task_set.labels[name]
        return labels.values[np.searchsorted(labels.rows, rows)]
    return task_set.target(name)[rows]


def predict(
    model: MultiTaskModel,
    task_set: TaskSet,
    split: str,
    tasks: Sequence[str] | None = None,
    *,
    most_rows: int | None = None,
    batch_size: int = 256,
    forward: Forward | None = None,
) -> dict[str, np.ndarray]:
    """{task: prediction of each of its rows in `split`}; of `chosen` ones with `most_rows`."""
    names = list(model.tasks if tasks is None else tasks)
    device = this_device()
    source = feed(task_set, names)
    run = forward or (lambda batch: model(batch.inputs, batch.route))
    found: dict[str, list[np.ndarray]] = {name: [] for name in names}
    places: dict[str, list[np.ndarray]] = {name: [] for name in names}
    was_training = model.training
    model.eval()
    prepare = model.trunk(names[0]).prepare
    with torch.no_grad():
        for table, rows in _mine(_batches(task_set, source, split, most_rows, batch_size)):
            batch = source.batch(prepare, np.full(len(rows), table), rows).to(device)
            for name, output in run(batch).items():
                found[name].append(in_user_terms(task_set.tasks[name], output).cpu().numpy())
                places[name].append(rows[batch.route.of(name).cpu().numpy()])
    model.train(was_training)
    return {
        name: _in_order(
            gather(places[name]), gather(found[name]), chosen(task_set, name, split, most_rows)
        )
        for name in names
    }


def scores(
    task_set: TaskSet, split: str, predictions: dict[str, np.ndarray], most_rows: int | None = None
) -> dict[str, float]:
    """{task: its metric} of what `predict` returned."""
    result = {}
    for name, prediction in predictions.items():
        task = task_set.tasks[name]
        target = truth(task_set, name, chosen(task_set, name, split, most_rows))
        result[name] = float(metric_for(task.kind, task.metric).score(prediction, target))
    return result


def goodness(task_set: TaskSet, found: Mapping[str, float | None]) -> float:
    """One number to choose a checkpoint by: the mean over tasks of the metric, larger is better.

    Errors in the target's unit (RMSE, MAE) count negative and in standard deviations of the target.
    An undefined score counts as the worst.
    """
    values = []
    for name, score in found.items():
        task = task_set.tasks[name]
        metric = metric_for(task.kind, task.metric)
        unit = 1.0 if metric.higher_is_better else {"normals": 90.0}.get(task.kind, task.scale)
        unit = unit if task.kind in ("number", *MAPS) else 1.0
        if score is None or not np.isfinite(score):
            values.append(-1.0)
        else:
            values.append(score if metric.higher_is_better else -score / unit)
    return float(np.mean(values))


def chosen(task_set: TaskSet, task: str, split: str, most_rows: int | None) -> np.ndarray:
    """The rows of a task in a split, or a fixed choice of `most_rows` of them, by a seeded draw."""
    rows = task_set.rows(task, split)
    if most_rows is None or len(rows) <= most_rows:
        return rows
    drawn = np.random.Generator(np.random.Philox(0)).choice(len(rows), most_rows, replace=False)
    return rows[np.sort(drawn)]


def _batches(
    task_set: TaskSet, source: Feed, split: str, most_rows: int | None, size: int
) -> Iterator[tuple[int, np.ndarray]]:
    for table, names in source.tasks.items():
        wanted = [chosen(task_set, name, split, most_rows) for name in names]
        rows = np.unique(np.concatenate(wanted))
        for start in range(0, len(rows), size):
            yield table, rows[start : start + size]


def _mine(batches: Iterator[tuple[int, np.ndarray]]) -> Iterator[tuple[int, np.ndarray]]:
    here = processes()
    for number, batch in enumerate(batches):
        if number % here.num_processes == here.process_index:
            yield batch


def _in_order(places: list[np.ndarray], found: list[np.ndarray], wanted: np.ndarray) -> np.ndarray:
    """The prediction of each wanted row; rows met for other tasks' sake are left out."""
    rows, values = np.concatenate(places), np.concatenate(found)
    order = np.argsort(rows, kind="stable")
    return values[order[np.searchsorted(rows[order], wanted)]]
