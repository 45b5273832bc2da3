"""taskgrove systems: what there is, by decision."""


def systems() -> None:
    """Lists methods, backbones and suites, each with a sentence.

    - `taskgrove systems`

    The names go to `taskgrove compare --methods a,b --backbone c --tasks d` and to `taskgrove
    train a`.
    """
    from rich.console import Console
    from rich.table import Table

    from taskgrove.backbones import BACKBONES, minilm
    from taskgrove.methods import METHODS
    from taskgrove.suites import SUITES

    backbones = {**BACKBONES, "minilm": minilm}
    lists = {
        "methods": {name: method.about for name, method in METHODS.items()},
        "backbones": {name: _title(made) for name, made in backbones.items()},
        "suites": {name: suite.description for name, suite in SUITES.items()},
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
