"""taskgrove: many tasks, one root.

    tasks = taskgrove.load_tasks("tasks.yaml")
    results = taskgrove.compare(tasks, Path("runs/mine"), taskgrove.Settings(seeds=(0, 1, 2)))
    model = taskgrove.load("runs/mine/model")
    taskgrove.predict(model, "topic", "new.csv")

Names are imported when they are used, so that `import taskgrove` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from taskgrove.errors import TaskgroveError

if TYPE_CHECKING:
    from taskgrove.methods import METHODS
    from taskgrove.methods.compare import compare
    from taskgrove.methods.predict import predict
    from taskgrove.methods.settings import Settings
    from taskgrove.methods.train import train
    from taskgrove.sharing.folder import load
    from taskgrove.sharing.model import MultiTaskModel
    from taskgrove.tasks.task_set import TaskSet, load_tasks
    from taskgrove.training.budget import Budget
    from taskgrove.training.options import Options

__version__ = "0.1.0"

_HOMES = {
    "METHODS": "taskgrove.methods",
    "Budget": "taskgrove.training.budget",
    "MultiTaskModel": "taskgrove.sharing.model",
    "Options": "taskgrove.training.options",
    "Settings": "taskgrove.methods.settings",
    "TaskSet": "taskgrove.tasks.task_set",
    "compare": "taskgrove.methods.compare",
    "load": "taskgrove.sharing.folder",
    "load_tasks": "taskgrove.tasks.task_set",
    "predict": "taskgrove.methods.predict",
    "train": "taskgrove.methods.train",
}

__all__ = [
    "METHODS",
    "Budget",
    "MultiTaskModel",
    "Options",
    "Settings",
    "TaskSet",
    "TaskgroveError",
    "compare",
    "load",
    "load_tasks",
    "predict",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'taskgrove' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
