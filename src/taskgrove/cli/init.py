"""taskgrove init: a first tasks.yaml from a look at the user's files."""

from pathlib import Path
from typing import Annotated

import typer


def init(
    files: Annotated[
        list[Path], typer.Argument(help="CSV, Parquet or JSONL files, or image folders.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The file to write.")] = Path(
        "tasks.yaml"
    ),
) -> None:
    """Writes a first tasks.yaml by looking at your files; read it, then compare.

    - `taskgrove init reviews.csv`
    - `taskgrove init photos/ labels.parquet --out my-tasks.yaml`
    """
    from taskgrove.errors import TaskgroveError
    from taskgrove.tasks.init import propose

    if out.exists():
        raise TaskgroveError(f"{out} exists already: delete it, or give another --out")
    text = propose(files, out.parent)
    try:
        out.write_text(text, "utf-8")
    except OSError as error:
        raise TaskgroveError(f"{out} cannot be written ({error.strerror})") from None
    print(f"{out} written: read it, then `taskgrove compare --tasks {out}`")
