"""Task: a name, a target of one kind, and what a head and a metric must know about it."""

from dataclasses import asdict, dataclass, fields
from typing import Any

MAPS = {  # kinds of target with a value for each pixel: their metric
    "segmentation": "mean_iou",
    "depth": "depth_rmse",
    "normals": "angular_error",
    "edges": "ods_f",
    "saliency": "max_f",
}
DEFAULT_METRIC = {"classes": "accuracy", "labels": "average_precision", "number": "r2", **MAPS}
OUTPUTS = {"number": 1, "depth": 1, "normals": 3, "edges": 1, "saliency": 1}


@dataclass(frozen=True)
class Task:
    """One task. `table` is its place in `TaskSet.tables`; all statistics come from training rows.

    >>> task = Task("topic", 0, "topic", "classes", ("art", "law"), 0.0, 1.0, "accuracy", 1.0)
    >>> task.outputs, Task.from_json(task.to_json()) == task
    (2, True)
    """

    name: str
    table: int
    target: str  # the column
    kind: str  # classes: one of C; labels: any of C; number; or a map, see MAPS
    classes: tuple[str, ...]  # in the order of the head's outputs; empty for a number
    center: float  # mean of a number or depth target; 0 for other kinds
    scale: float  # its standard deviation; 1 for other kinds
    metric: str
    weight: float  # of the task's loss

    @property
    def outputs(self) -> int:
        """How many outputs a head needs, for each pixel where it is a map."""
        return OUTPUTS.get(self.kind, len(self.classes))

    def to_json(self) -> dict[str, Any]:
        """Plain values only."""
        return {**asdict(self), "classes": list(self.classes)}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Task":
        """The inverse of `to_json`; keys of later versions are ignored."""
        known = {f.name: values[f.name] for f in fields(cls)}
        return cls(**{**known, "classes": tuple(values["classes"])})
