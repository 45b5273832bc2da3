"""The folder that a run works in: taken once, found again by the same run, refused to any other."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from taskgrove.backbones import Backbone
from taskgrove.errors import TaskgroveError
from taskgrove.measuring import metric_for
from taskgrove.methods import METHODS, chosen
from taskgrove.methods.start import Named, new_trunk
from taskgrove.sharing.sharing import Rule, Sharing
from taskgrove.tasks.task import MAPS
from taskgrove.tasks.task_set import TaskSet
from taskgrove.training import checkpoint
from taskgrove.training.mixtures import rates_of
from taskgrove.training.processes import processes, wait

LARGEST_SEED = 2**31


def check(
    task_set: TaskSet,
    seeds: Sequence[int],
    backbone: Named,
    start_steps: int | None,
    rules: Sequence[Sequence[Rule]] = (),
) -> None:
    """Refuses what no run can set out from, before anything is written; `rules` of each method that
    attaches parts must fit the trunk."""
    for seed in seeds:
        if not 0 <= seed < LARGEST_SEED:
            raise TaskgroveError(f"the seed {seed} must be 0 or more, and below {LARGEST_SEED}")
    if start_steps is not None and start_steps < 0:
        raise TaskgroveError(f"the start's steps are {start_steps}: they must be 0 or more")
    rates_of(task_set)
    for task in task_set.tasks.values():
        try:
            metric_for(task.kind, task.metric)
        except TaskgroveError as error:
            raise TaskgroveError(f'task "{task.name}": {error}') from None
    trunk, _ = new_trunk(task_set, seeds[0], backbone)
    for each in rules:
        if reason := misfit(trunk, each):
            raise TaskgroveError(
                f"{reason} Choose another method, other rules, or another --backbone."
            )


def refuse_maps(methods: Iterable[str], task_set: TaskSet) -> None:
    """AdaMerging lowers the entropy of predicted classes, which maps do not have here."""
    maps = [name for name, task in task_set.tasks.items() if task.kind in MAPS]
    if maps and "adamerging" in methods:
        raise TaskgroveError(
            f'adamerging needs classes, labels or numbers, but task "{maps[0]}" predicts a map:'
            " leave the method out"
        )


def misfit(trunk: Backbone, rules: Sequence[Rule]) -> str:
    """Why parts cannot be attached to this trunk; "" where they can."""
    try:
        with torch.random.fork_rng(devices=[]):
            Sharing(trunk, rules, ["one"]).detach()  # pyright: ignore[reportArgumentType]
    except TaskgroveError as error:
        return str(error)
    return ""


def fitting(
    methods: Sequence[str], task_set: TaskSet, backbone: Named
) -> tuple[list[str], list[str]]:
    """Methods by name and group, and what was left out of groups as it fits not trunk or tasks."""
    ruled = [name for name in chosen(methods) if METHODS[name].rules]
    unfit = {"adamerging"} if any(t.kind in MAPS for t in task_set.tasks.values()) else set()
    if ruled:
        trunk, _ = new_trunk(task_set, 0, backbone)
        unfit |= {name for name in ruled if misfit(trunk, METHODS[name].rules)}
    left = [name for name in chosen(methods) if name in unfit and name not in methods]
    return [name for name in chosen(methods) if name not in left], left


def claim(folder: Path, asked: Mapping[str, Any]) -> None:
    """Takes a new or empty folder for the run that `asked` (JSON) describes, or one it began."""
    marker = folder / "run.json"
    try:
        if marker.exists():
            before = checkpoint.read_json(marker)
            if changed := list(_changed(before, checkpoint.finite(asked))):
                raise TaskgroveError(
                    f"{folder} holds a run with other settings ({', '.join(changed)} differ):"
                    " give another --out, or delete that folder"
                )
        elif processes().is_main_process:
            folder.mkdir(parents=True, exist_ok=True)
            if any(folder.iterdir()):
                raise TaskgroveError(f"{folder} is not empty and holds no run: give another --out")
            checkpoint.write_json(marker, asked)
    except OSError as error:
        raise TaskgroveError(
            f"{folder} cannot be written ({error.strerror}): give another --out"
        ) from None
    wait()


def _changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """Names of the settings that differ; those of a group of settings one by one."""
    for name in dict.fromkeys([*before, *now]):
        old, new = before.get(name), now.get(name)
        if name == "options" and isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from _changed(old, new)
        elif old != new:
            yield name
