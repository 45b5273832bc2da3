"""tasks.yaml: its fields, their types and defaults, and one sentence for each mistake in it.

Every field of a task may stand at top level as the default for all tasks; a task undoes such a
default with `field: null`.
"""

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from taskgrove.errors import TaskgroveError, did_you_mean
from taskgrove.tasks.schema_errors import sentence, shape
from taskgrove.tasks.split_names import SPLITS
from taskgrove.tasks.splits import check_fractions
from taskgrove.tasks.strict_yaml import parse

STRICT = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True)


class Fractions(BaseModel):
    """How much of a table is set aside, by a stable hash of the key."""

    model_config = STRICT
    validation: float = Field(default=0.15, gt=0, lt=1)
    test: float = Field(default=0.15, gt=0, lt=1)

    @model_validator(mode="after")
    def _room_to_train(self) -> "Fractions":
        check_fractions(self.validation, self.test)
        return self


DEFAULT_SPLIT = Fractions()


class TaskSpec(BaseModel):
    """One task as written in tasks.yaml, with the top level's defaults filled in."""

    model_config = STRICT
    data: str | dict[Literal["train", "validation", "test"], str]
    target: str | None = None  # the column; default: the task's name (image folders: "label")
    kind: Literal[
        "classes", "labels", "number", "segmentation", "depth", "normals", "edges", "saliency"
    ] = "classes"
    classes: list[str] | int | None = None  # of a segmentation, in the order of their numbers
    metric: str | None = None  # default by kind
    separator: str | None = None  # between the labels of one cell, for kind: labels; default ;
    weight: float = Field(1.0, gt=0, allow_inf_nan=False)  # of the task's loss
    text: list[str] = []
    image: str | None = None
    numbers: list[str] = []
    categories: list[str] = []
    key: str | None = None  # rows that agree on it never cross splits; default: the inputs' content
    split: str | Fractions | None = None  # fractions, or the column that says it
    on_rare: Literal["error", "drop"] = "error"  # a label that cannot be learnt
    on_unreadable: Literal["error", "skip"] = "error"  # a picture that does not open

    @field_validator("text", "numbers", "categories", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return [] if value is None else [value] if isinstance(value, str | int) else value

    @field_validator("split", mode="before")
    @classmethod
    def _no_bare_number(cls, value: Any) -> Any:
        if isinstance(value, float | int):
            raise ValueError(value)
        return value

    @model_validator(mode="before")
    @classmethod
    def _null_is_default(cls, values: Any) -> Any:
        return {k: v for k, v in values.items() if v is not None}


class TasksFile(BaseModel):
    """A whole tasks.yaml; relative paths in it start at `folder`."""

    model_config = STRICT
    tasks: dict[str, TaskSpec] = Field(min_length=1)
    name: str = "tasks"
    folder: Path = Path()
    backbone: str | None = None
    image_size: int = Field(32, ge=8, le=1024)
    max_length: int | None = Field(None, ge=1)  # tokens of a text
    mixture: str | dict[str, Any] | None = None  # read by `taskgrove.mixing`
    inherited: dict[str, frozenset[str]] = {}  # the fields that a task has from the top level

    @model_validator(mode="before")
    @classmethod
    def _fill_in_defaults(cls, values: Any) -> Any:
        defaults = {k: v for k, v in values.items() if k in TaskSpec.model_fields}
        rest = {k: v for k, v in values.items() if k not in defaults and v is not None}
        tasks = rest.get("tasks")
        if not isinstance(tasks, dict):
            return rest
        filled = {
            str(name) if isinstance(name, int) and not isinstance(name, bool) else name: (
                task if isinstance(task, TaskSpec | str | list | int) else defaults | (task or {})
            )
            for name, task in tasks.items()
        }
        own = {str(name): task for name, task in tasks.items() if isinstance(task, dict | None)}
        inherited = {name: frozenset(defaults) - set(task or {}) for name, task in own.items()}
        return {**rest, "tasks": filled, "inherited": inherited}


KEYS = {
    "top": tuple(n for n in TasksFile.model_fields if n not in ("folder", "inherited")),
    "task": tuple(TaskSpec.model_fields),
    "split": tuple(Fractions.model_fields),
    "data": SPLITS,
}


def read_tasks_file(path: str | Path) -> TasksFile:
    """Reads and checks tasks.yaml."""
    path = Path(path)
    try:
        text = path.read_text("utf-8-sig")
    except FileNotFoundError:
        raise TaskgroveError(f"{path} does not exist; `taskgrove init FILE` writes one") from None
    except (UnicodeDecodeError, OSError) as error:
        raise TaskgroveError(f"{path} cannot be read as a UTF-8 text file ({error})") from None
    name = path.resolve().parent.name if path.stem == "tasks" else path.stem
    return parse_tasks(text, path.name, path.parent, name or "tasks")


def parse_tasks(text: str, file: str, folder: Path, name: str = "tasks") -> TasksFile:
    """The same for text that was already read; `file` is its name in messages."""
    values = parse(text, file)
    if values is None:
        raise TaskgroveError(f"{file} is empty; `taskgrove init FILE` writes an example")
    if not isinstance(values, dict):
        raise TaskgroveError(
            f"{file} must be a mapping (tasks: ...), not a {shape(values)}; "
            "`taskgrove init FILE` writes an example"
        )
    if not values.get("tasks"):
        known = (*TasksFile.model_fields, *TaskSpec.model_fields)
        odd = next((k for k in values if k not in known), "")
        hint = did_you_mean(str(odd), ["tasks"])
        raise TaskgroveError(f'{file} names no task: give at least one under "tasks".{hint}')
    _check_shapes(values, file)
    for key in values:
        if key in ("folder", "inherited"):
            raise TaskgroveError(f'{file}: the top level has an unknown key "{key}"')
    try:
        return TasksFile.model_validate({"name": name, **values, "folder": folder})
    except ValidationError as error:
        raise TaskgroveError(f"{file}: {sentence(error, values, KEYS)}") from None
    except TaskgroveError as error:
        raise TaskgroveError(f"{file}: {error}") from None


def _check_shapes(values: dict[Any, Any], file: str) -> None:
    """What must be a mapping is one, and every name is text."""
    tasks = values["tasks"]
    if not isinstance(tasks, dict):
        raise TaskgroveError(
            f'{file}: "tasks" must be a mapping (a name, then its target), not a {shape(tasks)}'
        )
    for place, mapping in {"the top level": values, '"tasks"': tasks}.items():
        for key in mapping:
            if not isinstance(key, str | int) or isinstance(key, bool):
                raise TaskgroveError(
                    f"{file}: {place} has the name {key!r}, which YAML does not read as text; put "
                    "it in quotes"
                )
    for name, task in tasks.items():
        if not str(name).strip():
            raise TaskgroveError(f"{file}: a task has an empty name")
        if not isinstance(task, dict | None):
            raise TaskgroveError(
                f'{file}: task "{name}" must be a mapping such as {{target: column}}, '
                f"not a {shape(task)}"
            )
