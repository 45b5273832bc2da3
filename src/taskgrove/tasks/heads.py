"""Heads: one small layer a task, from shared features to the task's outputs.

Symbols: features [row dim]; output [row out], out = classes for "classes" and "labels", 1 for
"number" (in units of the training part's standard deviation around its mean).
"""

from torch import nn

from taskgrove.tasks.dense_head import DenseHead
from taskgrove.tasks.task import Task


def head(width: int, task: Task) -> nn.Linear:
    """A linear head, the field's default for hard sharing (Caruana 1997, Multitask Learning)."""
    return nn.Linear(width, task.outputs)


def dense_head(width: int, task: Task, size: int) -> DenseHead:
    """A head for a target with a value for each pixel of pictures of this size."""
    return DenseHead(width, task.outputs, size)
