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

    from taskgrove.backbones import BACKBONES, minilm
    from taskgrove.methods import BALANCING, BASELINES, MERGING, SHARING
    from taskgrove.suites import SUITES
    from taskgrove.systems import SYSTEMS
    from taskgrove.systems.runs import standing

    backbones = {**BACKBONES, "minilm": minilm}
    methods = {
        "baselines": BASELINES,
        "balancing, on one shared trunk": BALANCING,
        "merging of the single models": MERGING,
        "parts of each task's own on one trunk": SHARING,
    }
    lists = {
        **{
            f"methods: {title}": {name: method.about for name, method in group.items()}
            for title, group in methods.items()
        },
        "backbones": {name: _title(made) for name, made in backbones.items()},
        "suites": {name: suite.description for name, suite in SUITES.items()},
        "published systems, and whether their claims hold": {
            name: f"{system.title} {system.year}: {standing(system, claims)}"
            for name, system in SYSTEMS.items()
        },
    }
    console = Console()
    for title, rows in lists.items():
        table = Table("name", "what it is", box=None, pad_edge=False, title=title)
        table.title_justify = "left"
        for name, sentence in rows.items():
            table.add_row(name, sentence)
        console.print(table, "")


def _title(made: object) -> str:
    """The first line of the page that a thing is described on."""
    from sys import modules

    return (modules[made.__module__].__doc__ or "").splitlines()[0]
