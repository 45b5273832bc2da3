"""taskgrove train: one method to a model folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from taskgrove.cli import options as o
from taskgrove.errors import TaskgroveError


def train(
    method: Annotated[str, typer.Argument(help="A method's name; see `taskgrove systems`.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The model folder to write.")],
    tasks: o.Tasks = "pictures",
    seed: Annotated[int, typer.Option(help="Makes the run repeatable.")] = 0,
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
    threads: o.Threads = None,
    rules: Annotated[
        Path | None,
        typer.Option(
            help="YAML: which parts go where, for methods that attach parts.", show_default=False
        ),
    ] = None,
) -> None:
    """Trains one method on your tasks and writes a model folder.

    - `taskgrove train joint --tasks tasks.yaml --out model`
    - `taskgrove train adamerging --tasks tasks.yaml --steps 2000 --out model`
    - `taskgrove train lora --tasks tasks.yaml --rules rules.yaml --out model`

    A rule is a pattern of module names and a choice: `- ["*.attention.*", {choice: lora, rank:
    4}]`; the first that matches wins.

    The folder holds safetensors and JSON: `taskgrove predict model ...` reads it, in Python
    `taskgrove.load("model")`; a transformers trunk opens from `model/backbone` with `AutoModel`. A
    run that was stopped goes on with the same command (its work lies beside the folder until
    done).
    """
    from taskgrove.methods.train import train as run
    from taskgrove.sharing.table import read_rules
    from taskgrove.training.options import Options
    from taskgrove.training.processes import processes
    from taskgrove.training.processes import threads as in_threads

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
    limit = o.budget(steps, examples, seconds, passes)
    parts = [] if rules is None else read_rules(rules)
    loaded = o.task_set(tasks)
    if not out.name:
        raise TaskgroveError(f"--out is {out}, this folder itself: name a new one, such as model")
    with o.bar() as bar:

        def tell(what: str, done: float, losses: Mapping[str, float]) -> None:
            bar.tell(method, what, done, losses)

        with in_threads(o.side_by_side(loaded, backbone, 1, 1, threads)[1]):
            found = run(
                method, loaded, out, limit, chosen, seed, start_steps, backbone, tell, parts
            )
    if processes().is_main_process:
        for task, score in found.items():
            print(f"{task}: {loaded.tasks[task].metric} {score:.3f} on test")
        print(f"model    {out}")
