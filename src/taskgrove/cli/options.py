"""Options that several commands share, and the settings that they make."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from taskgrove.errors import TaskgroveError, did_you_mean, listed

if TYPE_CHECKING:
    from taskgrove.cli.progress import Bar
    from taskgrove.tasks.task_set import TaskSet
    from taskgrove.training.budget import Budget


Tasks = Annotated[
    str,
    typer.Option(
        "--tasks",
        "-t",
        help="A tasks.yaml (see `taskgrove init`) or a suite: pictures, yeast, debtags.",
    ),
]
Steps = Annotated[
    float | None, typer.Option(help="Budget: steps of one batch.", show_default=False)
]
Examples = Annotated[
    float | None, typer.Option(help="Budget: training rows drawn.", show_default=False)
]
Seconds = Annotated[
    float | None, typer.Option(help="Budget: seconds of training.", show_default=False)
]
Passes = Annotated[
    float | None,
    typer.Option(help="Budget: forward and backward passes of one row.", show_default=False),
]
BatchSize = Annotated[int, typer.Option(help="Rows a step.")]
LearningRate = Annotated[
    float | None,
    typer.Option(
        help="Highest rate of the trunk. [default: 2e-3, pre-trained 1e-4]", show_default=False
    ),
]
Backbone = Annotated[
    str | None,
    typer.Option(
        help="bag, mlp, cnn, vit, minilm, or a transformers folder or hub name."
        " [default: the tasks file's, or by the kind of input]",
        show_default=False,
    ),
]
StartSteps = Annotated[
    int | None,
    typer.Option(
        help="Joint steps before the methods set out. [default: 300, pre-trained 0]",
        show_default=False,
    ),
]
Precision = Annotated[
    Literal["auto", "fp32", "bf16", "fp16"],
    typer.Option(help="Of the products; auto is bf16 on an accelerator that has it."),
]
Patience = Annotated[
    int | None,
    typer.Option(help="Validation looks without a gain before an early stop.", show_default=False),
]
Accumulate = Annotated[int, typer.Option(help="Parts that a batch is computed in, to save memory.")]
Level = Annotated[
    Literal["parameters", "features"],
    typer.Option(
        help="Where balancing methods read task gradients: exactly, at the shared parameters; or at"
        " the trunk's features, for about the price of a plain step."
    ),
]
Every = Annotated[
    int,
    typer.Option(
        help="Steps between two looks of balancing methods at task gradients; between them the last"
        " weights hold, and a step costs what a plain one does."
    ),
]
Watch = Annotated[
    int,
    typer.Option(
        help="Steps between two measurements of how task gradients meet (the report shows it) under"
        " methods that do not need them, such as joint; 0: never. Moves training by rounding only."
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        help="CPU threads of a process. [default: as suits the trunk]", show_default=False
    ),
]


def budget(
    steps: float | None, examples: float | None, seconds: float | None, passes: float | None
) -> "Budget":
    """The one budget that was given; 600 steps when none was."""
    from taskgrove.training.budget import Budget

    if steps is None and examples is None and seconds is None and passes is None:
        steps = 600
    return Budget(steps, examples, seconds, passes)


def task_set(tasks: str) -> "TaskSet":
    """Loads a tasks file or a suite, with a line on the screen while it reads."""
    from rich.console import Console
    from rich.markup import escape

    from taskgrove.suites import SUITES, locate
    from taskgrove.tasks.task_set import load_tasks

    place = Path(tasks)
    if tasks in SUITES and not place.is_file():
        place = locate(tasks)
    elif not place.exists() or place.is_dir():
        raise _no_tasks(place, SUITES)
    with Console(stderr=True).status(escape(f"reading {tasks}")) as status:

        def progress(what: str, done: int, total: int) -> None:
            status.update(escape(f"{what}: {done:,} of {total:,}"))

        return load_tasks(place, progress)


def _no_tasks(place: Path, suites: Iterable[str]) -> TaskgroveError:
    """The sentence for a tasks file that is not there, with the nearest that is."""
    wanted = place / "tasks.yaml" if place.is_dir() else place
    near = [str(path) for path in wanted.parent.glob("*.y*ml")]
    what = "is a folder" if place.is_dir() else "does not exist"
    hint = did_you_mean(str(wanted), [*near, *suites])
    return TaskgroveError(
        f"--tasks {place} {what}: give a tasks.yaml (`taskgrove init FILE` writes one) or a suite"
        f" ({listed(suites)}).{hint}"
    )


def side_by_side(
    loaded: "TaskSet", backbone: str | None, seeds: int, jobs: int | None, threads: int | None
) -> tuple[int, int]:
    """How many seeds at a time, and the threads of each.

    A small trunk of our own gains nothing from a second thread, so cores go to seeds first.
    """
    import torch

    from taskgrove.methods.start import is_pretrained
    from taskgrove.training.processes import processes

    for name, value in (("--jobs", jobs), ("--threads", threads)):
        if value is not None and value < 1:
            raise TaskgroveError(f"{name} is {value}: it must be 1 or more")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    alone = torch.cuda.is_available() or processes().num_processes > 1
    jobs = jobs or (1 if alone else min(seeds, cores or 1))
    wide = is_pretrained(loaded, backbone)
    return jobs, threads or (max(1, (cores or 1) // jobs) if wide else 1)


def bar() -> "Bar":
    """A progress bar that speaks from the first process only."""
    from taskgrove.cli.progress import Bar
    from taskgrove.training.processes import processes

    return Bar(quiet=not processes().is_main_process)
