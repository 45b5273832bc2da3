"""Options that several commands share, and the settings that they make."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from taskgrove.errors import TaskgroveError, listed

if TYPE_CHECKING:
    from taskgrove.cli.progress import Bar
    from taskgrove.tasks.task_set import TaskSet
    from taskgrove.training.budget import Budget
    from taskgrove.training.options import Precision as PrecisionName

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
Precision = Annotated[str, typer.Option(help="auto, fp32, bf16 or fp16.")]
Patience = Annotated[
    int | None,
    typer.Option(help="Validation looks without a gain before an early stop.", show_default=False),
]
Accumulate = Annotated[int, typer.Option(help="Parts that a batch is computed in, to save memory.")]
Threads = Annotated[
    int | None, typer.Option(help="CPU threads. [default: all cores]", show_default=False)
]


def budget(
    steps: float | None, examples: float | None, seconds: float | None, passes: float | None
) -> "Budget":
    """The one budget that was given; 600 steps when none was."""
    from taskgrove.training.budget import Budget

    if steps is None and examples is None and seconds is None and passes is None:
        steps = 600
    return Budget(steps, examples, seconds, passes)


def task_set(tasks: str, threads: int | None) -> "TaskSet":
    """Loads a tasks file or a suite, with a line on the screen while it reads."""
    import torch
    from rich.console import Console

    from taskgrove.suites import SUITES, locate
    from taskgrove.tasks.task_set import load_tasks

    if threads is not None:
        if threads < 1:
            raise TaskgroveError(f"--threads is {threads}: it must be 1 or more")
        torch.set_num_threads(threads)
    place = locate(tasks) if tasks in SUITES and not Path(tasks).is_file() else Path(tasks)
    with Console(stderr=True).status(f"reading {tasks}"):
        return load_tasks(place)


def precision(name: str) -> "PrecisionName":
    """The name of a precision, checked."""
    known = ("auto", "fp32", "bf16", "fp16")
    if name not in known:
        raise TaskgroveError(f'there is no precision "{name}"; there are {listed(known)}')
    return cast("PrecisionName", name)


def bar() -> "Bar":
    """A progress bar that speaks from the first process only."""
    from taskgrove.cli.progress import Bar
    from taskgrove.training.processes import processes

    return Bar(quiet=not processes().is_main_process)
