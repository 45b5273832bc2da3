"""taskgrove add: a new task into a saved model, the old ones untouched."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import typer

from taskgrove.cli import options as o
from taskgrove.errors import TaskgroveError


def add(
    folder: Annotated[Path, typer.Argument(help="A model folder with parts of each task's own.")],
    tasks: Annotated[str, typer.Option(help="The new tasks: tasks.yaml.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The model folder to write.")],
    mode: Annotated[
        Literal["own", "full"],
        typer.Option(help="full also trains what tasks share among the parts: old ones change."),
    ] = "own",
    seed: Annotated[int, typer.Option(help="Makes the run repeatable.")] = 0,
    steps: o.Steps = None,
    examples: o.Examples = None,
    seconds: o.Seconds = None,
    passes: o.Passes = None,
    batch_size: o.BatchSize = 64,
    precision: o.Precision = "auto",
    patience: o.Patience = None,
    threads: o.Threads = None,
) -> None:
    """Adds tasks to a model made by `train lora`, `adapter`, `mhr` and the like.

    - `taskgrove add model --tasks new.yaml --out model-2`

    Trains the new tasks' own parts only: slices of adapters, a router's row, scales, heads. Then it
    proves on rows of the new tasks that the old tasks' outputs are the same, bit for bit. A run
    that was stopped goes on with the same command.
    """
    from taskgrove.methods.add import add as run
    from taskgrove.training.options import Options
    from taskgrove.training.processes import processes
    from taskgrove.training.processes import threads as in_threads

    if not out.name:
        raise TaskgroveError(f"--out is {out}, this folder itself: name a new one, such as model")
    chosen = Options(batch_size=batch_size, precision=precision, patience=patience)
    limit = o.budget(steps, examples, seconds, passes)
    loaded = o.task_set(tasks)
    with o.bar() as bar:

        def tell(what: str, done: float, losses: Mapping[str, float]) -> None:
            bar.tell("add", what, done, losses)

        with in_threads(o.side_by_side(loaded, None, 1, 1, threads)[1]):
            found = run(folder, loaded, out, limit, chosen, seed, mode, tell)
    if processes().is_main_process:
        for task, score in found.items():
            print(f"{task}: {loaded.tasks[task].metric} {score:.3f} on test")
        kept = "may have changed" if mode == "full" else "are the same, bit for bit"
        print(f"outputs of the old tasks {kept}")
        print(f"model    {out}")
