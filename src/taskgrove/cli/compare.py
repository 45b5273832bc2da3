"""taskgrove compare: the main job."""

import shlex
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from taskgrove.cli import options as o
from taskgrove.errors import TaskgroveError, listed


def compare(
    tasks: o.Tasks = "pictures",
    methods: Annotated[
        str | None,
        typer.Option(
            "--methods",
            "-m",
            help="Names with commas; groups: all, balancing, merging, sharing. [default: eight]",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="Run folder. [default: runs/NAME OF THE TASKS]", show_default=False
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(help="How many seeds; intervals need two or more.")] = 2,
    seed: Annotated[int, typer.Option(help="The first seed.")] = 0,
    steps: o.Steps = None,
    examples: o.Examples = None,
    seconds: o.Seconds = None,
    passes: o.Passes = None,
    batch_size: o.BatchSize = 64,
    learning_rate: o.LearningRate = None,
    backbone: o.Backbone = None,
    start_steps: o.StartSteps = None,
    precision: o.Precision = "auto",
    patience: o.Patience = None,
    accumulate: o.Accumulate = 1,
    level: o.Level = "parameters",
    every: o.Every = 1,
    watch: o.Watch = 0,
    jobs: Annotated[
        int | None,
        typer.Option(help="Seeds side by side. [default: a core each]", show_default=False),
    ] = None,
    threads: o.Threads = None,
) -> None:
    """Is one model for all tasks better than one each? Trains the methods at equal budget and
    tells.

    Without options it runs on six small built-in picture tasks, in about two minutes.

    - `taskgrove compare`
    - `taskgrove compare --tasks tasks.yaml --methods joint,pcgrad --seeds 3`
    - `taskgrove compare --tasks tasks.yaml --seconds 600 --backbone minilm`
    - `taskgrove compare --methods balancing --watch 10`

    Writes `report.html`, `results.json` and the best model (`model/`) into the run folder. The
    methods are listed by `taskgrove systems`. A run that was stopped goes on with the same
    command.
    """
    from rich.console import Console

    from taskgrove.measuring.console import results_table, verdict_lines
    from taskgrove.methods import GROUPS, METHODS
    from taskgrove.methods.compare import compare as run
    from taskgrove.methods.settings import Settings
    from taskgrove.methods.workplace import fitting
    from taskgrove.training.options import Options
    from taskgrove.training.processes import processes

    named = ["default"] if methods is None else [m.strip() for m in methods.split(",") if m.strip()]
    if not named:
        raise TaskgroveError(
            f"--methods names no method; there are {listed(METHODS, 40)},"
            f" and the groups {listed(GROUPS)}"
        )
    limit = o.budget(steps, examples, seconds, passes)
    chosen = Options(
        batch_size=batch_size,
        learning_rate=learning_rate,
        accumulate=accumulate,
        level=level,
        every=every,
        watch=watch,
        precision=precision,
        patience=patience,
    )
    first = Settings(
        methods=named,
        budget=limit,
        seeds=tuple(range(seed, seed + seeds)),
        options=chosen,
        start_steps=start_steps,
        backbone=backbone,
    )
    loaded = o.task_set(tasks)
    if set(named) & set(GROUPS):
        named, left = fitting(named, loaded, backbone)
        first = replace(first, methods=named)
        if left:
            print(f"left out, as they do not fit the trunk or the tasks: {', '.join(left)}")
    jobs, threads = o.side_by_side(loaded, backbone, seeds, jobs, threads)
    settings = replace(first, threads=threads)
    folder = out or Path("runs") / loaded.name
    command = shlex.join(["taskgrove", *sys.argv[1:]])
    with o.bar() as bar:

        def tell(
            seed: int, method: str, what: str, done: float, losses: Mapping[str, float]
        ) -> None:
            name = method if what == method else f"{method}: {what}"
            bar.tell(f"seed {seed}", name, done, losses)

        results = run(loaded, folder, settings, tell, jobs=jobs, command=command)
    if processes().is_main_process:
        console = Console()
        console.print(results_table(results))
        for line in verdict_lines(results):
            console.print(line, highlight=False, markup=False)
        best = results["best"]
        print(f"\nreport   {folder / 'report.html'}")
        print(f"model    {folder / 'model'} ({best['method']}, seed {best['seed']})")
