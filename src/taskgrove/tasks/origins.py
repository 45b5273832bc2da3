"""Which tasks share a table, and what a tasks file may not ask for."""

from collections.abc import Iterable, Mapping

from taskgrove.errors import TaskgroveError, listed
from taskgrove.tasks.hugging_face import HUB
from taskgrove.tasks.inputs import Inputs
from taskgrove.tasks.readers import find, kind_of
from taskgrove.tasks.schema import TasksFile, TaskSpec
from taskgrove.tasks.table import Origin, Table


def group_by_origin(file: TasksFile) -> dict[Origin, dict[str, str]]:
    """{origin: {task: target}}; tasks that agree on data, inputs, key and split share rows."""
    folders: dict[str, bool] = {}
    groups: dict[Origin, dict[str, str]] = {}
    for name, spec in file.tasks.items():
        first = spec.data if isinstance(spec.data, str) else next(iter(spec.data.values()))
        if first not in folders:
            folders[first] = (
                not first.startswith(HUB) and kind_of(find(first, file.folder)) == "images"
            )
        inputs = _inputs(name, spec, file.image_size, folders[first])
        target = spec.target or ("label" if folders[first] else name)
        _check_leak(name, target, inputs, spec)
        data = spec.data if isinstance(spec.data, str) else tuple(spec.data.items())
        origin = Origin(data, inputs, spec.key, spec.split, spec.on_unreadable == "skip")
        groups.setdefault(origin, {})[name] = target
    return groups


def _inputs(name: str, spec: TaskSpec, size: int, folder_of_images: bool) -> Inputs:
    given = spec.text or spec.image or spec.numbers or spec.categories
    image = "image" if folder_of_images and not given else spec.image
    inputs = Inputs(tuple(spec.text), image, tuple(spec.numbers), tuple(spec.categories), size)
    if not inputs.modalities:
        raise TaskgroveError(
            f'task "{name}" names no input; give the columns that the model reads: text, image, '
            "numbers or categories"
        )
    for role in ("text", "numbers", "categories"):
        columns = getattr(inputs, role)
        twice = [column for column in columns if columns.count(column) > 1]
        if twice:
            raise TaskgroveError(f'task "{name}": {role} names column "{twice[0]}" twice')
    return inputs


def _check_leak(name: str, target: str, inputs: Inputs, spec: TaskSpec) -> None:
    if target in inputs.columns:
        raise TaskgroveError(
            f'task "{name}": its target "{target}" is also an input, so the answer would be given '
            "away; take it out of the inputs"
        )
    for role, column in {"key": spec.key, "split": spec.split}.items():
        if column == target:
            raise TaskgroveError(
                f'task "{name}": its target "{target}" is also its {role}; every label would lie '
                "in one split: name another column"
            )


def check_alike(tables: list[Table], groups: Mapping[Origin, Iterable[str]]) -> None:
    """One backbone reads all tables, so they must offer the same kinds of input."""
    members = [next(iter(names)) for names in groups.values()]
    first = tables[0].inputs
    for table, member in zip(tables, members, strict=True):
        here = table.inputs
        if here.modalities != first.modalities:
            raise TaskgroveError(
                f'task "{members[0]}" reads {listed(sorted(first.modalities))}, but task '
                f'"{member}" reads {listed(sorted(here.modalities))}; one backbone serves all '
                "tasks, so all must offer the same kinds of input: use two task files"
            )
        for role in ("numbers", "categories"):
            ours, theirs = getattr(here, role), getattr(first, role)
            if ours != theirs:
                raise TaskgroveError(
                    f'task "{members[0]}" reads the {role} {listed(theirs)}, but task "{member}" '
                    f"reads {listed(ours)}; one backbone serves all tasks, so the columns must be "
                    "the same, in the same order: use two task files"
                )
