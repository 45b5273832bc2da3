"""taskgrove predict: predictions for new rows."""

from pathlib import Path
from typing import Annotated

import typer


def predict(
    folder: Annotated[
        Path, typer.Argument(help="A model folder, as `train` or `compare` wrote it.")
    ],
    rows: Annotated[Path, typer.Argument(help="CSV, Parquet or JSONL rows, or an image folder.")],
    task: Annotated[
        str | None,
        typer.Option(
            "--task",
            "-t",
            help="The task; needed where there are several.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="CSV, Parquet or JSONL. [default: print CSV]", show_default=False
        ),
    ] = None,
    task_column: Annotated[
        str | None,
        typer.Option(help="The column that names each row's task.", show_default=False),
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Rows at a time.")] = 256,
) -> None:
    """Writes a prediction for each row, with its probabilities.

    - `taskgrove predict runs/reviews/model reviews.csv --task topic --out topics.csv`
    - `taskgrove predict model photos/ --task animal`
    - `taskgrove predict model rows.csv --task-column task`     rows of several tasks, one batch

    Columns: `prediction`, then for classes and labels one probability a class (`p(NAME)`); for a
    folder of images `file` first. With --task-column: `task`, `prediction`, `probability`. The rows
    need the input columns that the model was trained on, and no labels.
    """
    from taskgrove.methods.predict import predict_file

    predict_file(folder, rows, task, out, batch_size, task_column)
