"""taskgrove suite: finds or builds a suite of real tasks."""

from typing import Annotated

import typer


def suite(
    name: Annotated[str, typer.Argument(help="pictures, yeast, debtags or scenes.")],
) -> None:
    """Makes a suite ready on this machine and prints its tasks file.

    - `taskgrove suite pictures`: ships inside the package
    - `taskgrove suite yeast`: 14 labels of one table; needs `pip install "taskgrove[yeast]"`
    - `taskgrove suite scenes`: five maps of one picture; made on this machine
    - `taskgrove suite debtags`: one text, seven label sets; from Debian's package index, by apt
    """
    from rich.console import Console

    from taskgrove.suites import locate

    with Console(stderr=True).status(f"making {name} ready"):
        place = locate(name)
    print(place)
