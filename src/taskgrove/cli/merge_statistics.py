"""taskgrove merge-statistics: what Fisher merging and RegMean need to know of a tuned model."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from taskgrove.errors import TaskgroveError

if TYPE_CHECKING:
    from taskgrove.methods.statistics_pass import Progress

KINDS = ("fisher", "gram")


def merge_statistics(
    kind: Annotated[str, typer.Argument(help="fisher (for Fisher merging) or gram (for RegMean).")],
    model: Annotated[Path, typer.Option(help="A tuned model's folder, of transformers.")],
    data: Annotated[Path, typer.Option(help="CSV, Parquet or JSONL rows of its task.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to write.")],
    text: Annotated[list[str] | None, typer.Option(help="Columns: one, or a pair.")] = None,
    rows: Annotated[
        int | None, typer.Option(help="Read at most so many. [default: all]", show_default=False)
    ] = None,
    length: Annotated[int, typer.Option(help="Tokens of a row that are read.")] = 128,
    batch_size: Annotated[int, typer.Option(help="Rows at a time (gram).")] = 16,
    seed: Annotated[int, typer.Option(help="Of the labels that are drawn (fisher).")] = 0,
) -> None:
    """Passes over rows of a tuned model's task; no labels are needed.

    - `taskgrove merge-statistics fisher --model A1 --data law.csv --text text --out F1`
    - `taskgrove merge fisher --tuned A1 A2 --fisher F1 F2 --out M`
    - `taskgrove merge regmean --tuned A1 A2 --gram G1 G2 --out M`

    A few hundred rows are enough. The same command goes on where it was stopped.
    """
    if kind not in KINDS:
        from taskgrove.errors import did_you_mean

        hint = did_you_mean(kind, KINDS)
        raise TaskgroveError(f'there are no statistics "{kind}"; there are fisher and gram.{hint}')
    columns = tuple(text or ["text"])
    if len(columns) > 2:
        raise TaskgroveError(f"--text names {len(columns)} columns; expected one, or a pair.")
    from taskgrove.cli.progress import Bar
    from taskgrove.methods import merge_statistics as statistics

    with Bar() as bar:
        told: Progress = lambda done, all_: bar.tell(kind, "rows", done / all_, {})  # noqa: E731
        if kind == "fisher":
            statistics.fisher(model, data, out, columns, rows, length, seed, told)
        else:
            statistics.gram(model, data, out, columns, rows, length, batch_size, told)
    print(f"{kind:<8} {out}")
