"""Predictions of a transformers classifier, as it is saved, for the test rows of a task."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from taskgrove.errors import TaskgroveError, listed
from taskgrove.tasks.task import Task
from taskgrove.tasks.task_set import TaskSet

BATCH = 64
LENGTH = 512


def classify(folder: Path, task_set: TaskSet, task: str) -> np.ndarray:
    """Predictions of a task's test rows by a transformers folder, in the user's terms."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    tokens = AutoTokenizer.from_pretrained(folder)
    kind = task_set.tasks[task]
    order = order_of(kind, model.config.to_dict(), folder)
    places = getattr(model.config, "max_position_embeddings", None) or LENGTH
    most = min(LENGTH, places, tokens.model_max_length)
    rows, found = task_set.rows(task, "test"), []
    with torch.no_grad():
        for start in range(0, len(rows), BATCH):
            raw = task_set.raw(kind.table, rows[start : start + BATCH])
            inputs = tokens(
                _texts(raw), padding=True, truncation=True, max_length=most, return_tensors="pt"
            )
            found.append(_in_user_terms(kind, model(**inputs).logits[:, order]).numpy())
    return np.concatenate(found)


def _texts(raw: dict[str, Any]) -> list[str]:
    from taskgrove.backbones.backbone import texts

    return [row or " " for row in texts(raw, "a classifier")]


def _in_user_terms(task: Task, logits: torch.Tensor) -> torch.Tensor:
    """A tuned model predicts a number in the user's unit, unlike our own heads."""
    if task.kind == "number":
        return logits.squeeze(-1)
    return logits.softmax(-1) if task.kind == "classes" else logits.sigmoid()


def order_of(task: Task, config: dict[str, Any], folder: Path) -> list[int]:
    """The model's output of each of the task's classes."""
    labels = {int(k): str(v) for k, v in (config.get("id2label") or {}).items()}
    labels = labels or {0: "LABEL_0", 1: "LABEL_1"}  # transformers' default
    if not any("Classification" in name for name in config.get("architectures") or []):
        raise TaskgroveError(
            f"{folder} is not a classifier (its config.json says {config.get('architectures')});"
            " expected a transformers folder saved from AutoModelForSequenceClassification."
        )
    if len(labels) != task.outputs:
        raise TaskgroveError(
            f'task "{task.name}" has {task.outputs} outputs, the model {folder} {len(labels)};'
            " expected as many: is it the model of another task?"
        )
    if task.kind == "number" or all(v == f"LABEL_{k}" for k, v in labels.items()):
        return list(range(task.outputs))
    place = {v: k for k, v in labels.items()}
    if set(place) != set(task.classes):
        raise TaskgroveError(
            f'task "{task.name}" has the classes {listed(task.classes)}, the model {folder}'
            f" {listed(place)} (id2label in its config.json); expected the same names."
        )
    return [place[name] for name in task.classes]
