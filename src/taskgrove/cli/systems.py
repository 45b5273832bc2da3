"""taskgrove systems: what there is, by decision."""

from pathlib import Path
from typing import Annotated

import typer


def systems(
    claims: Annotated[Path, typer.Option(help="Folder of claims.")] = Path("results/claims"),
) -> None:
    """Lists methods, backbones, suites and published systems, each with a sentence.

    - `taskgrove systems`

    The names go to `taskgrove compare --methods a,b --backbone c --tasks d` and to `taskgrove
    train a`; a system's claim is run by `taskgrove reproduce`.
    """
    from rich.console import Console
    from rich.table import Table

    from taskgrove.cli import catalogue

    lists = {
        **{f"methods: {title}": group for title, group in catalogue.methods().items()},
        "backbones": catalogue.backbones(),
        "suites": catalogue.suites(),
        "published systems, and whether their claims hold": catalogue.systems(claims),
    }
    console = Console()
    for title, rows in lists.items():
        table = Table("name", "what it is", box=None, pad_edge=False, title=title)
        table.title_justify = "left"
        for name, sentence in rows.items():
            table.add_row(name, sentence)
        console.print(table, "")
