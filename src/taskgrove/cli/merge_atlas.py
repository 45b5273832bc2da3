"""taskgrove merge atlas: models of other tasks composed for a new one."""

from pathlib import Path
from typing import Annotated

import typer

from taskgrove.cli.merge_learned import Base, Out, Seed, Tuned
from taskgrove.errors import TaskgroveError


def atlas(
    base: Base,
    tuned: Tuned,
    out: Out,
    train: Annotated[
        Path | None, typer.Option(help="A few labelled rows of the new task.", show_default=False)
    ] = None,
    unlabelled: Annotated[
        Path | None,
        typer.Option(help="Or rows without labels (test time).", show_default=False),
    ] = None,
    text: Annotated[
        list[str] | None, typer.Option(help="The column of texts, or two of a pair.")
    ] = None,
    label: Annotated[str, typer.Option(help="The column of classes.")] = "label",
    classes: Annotated[
        list[str] | None,
        typer.Option(help="Names of the classes, with --unlabelled.", show_default=False),
    ] = None,
    valid: Annotated[
        Path | None,
        typer.Option(help="Labelled rows to measure base and result on.", show_default=False),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="[default: 30, without labels 40]", show_default=False)
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="[default: 0.1, without labels 0.01]", show_default=False)
    ] = None,
    partitions: Annotated[int, typer.Option(help="K of aTLAS x K: coefficients a tensor.")] = 1,
    batch_size: Annotated[int, typer.Option(help="Rows in a step.")] = 48,
    folds: Annotated[
        int, typer.Option(help="Cross-validation on --train; 0: compose without it.")
    ] = 4,
    max_length: Annotated[int, typer.Option(help="Tokens of a row that are read.")] = 128,
    seed: Seed = 0,
) -> None:
    """Composes models of other tasks for a new one, a coefficient a tensor (Zhang et al. 2024).

    - `taskgrove merge atlas --base B --tuned A1 A2 --train few.csv --out M`

    The head is the base's own, where the base is a classifier of these classes, or made of the
    classes' names. Where cross-validation on the rows says that the base is better, it is handed
    out as it is. A run that was stopped goes on with the same command.
    """
    if (train is None) == (unlabelled is None):
        raise TaskgroveError(
            "expected one file of rows: --train (with labels) or --unlabelled (without)."
        )
    if classes and unlabelled is None:
        raise TaskgroveError("--classes goes with --unlabelled; --train names the classes itself.")
    from taskgrove.cli import options as o
    from taskgrove.methods.atlas_report import Composing, told
    from taskgrove.methods.merge_atlas import merge_atlas

    how = Composing(
        steps, learning_rate, partitions, batch_size, folds, tuple(classes or ()), max_length, seed
    )
    rows = train or unlabelled
    assert rows is not None
    columns = tuple(text or ["text"])
    with o.bar() as bar:
        tell = lambda done, of, loss: bar.tell("merge", "atlas", done / of, {"L": loss})  # noqa: E731
        found = merge_atlas(
            base, tuned, rows, out, train is not None, columns, label, valid, how, tell
        )
    print(told(found))
    print(f"model    {out}")
