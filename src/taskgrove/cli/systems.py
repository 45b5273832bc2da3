"""taskgrove systems: what there is, by decision."""


def systems() -> None:
    """Lists methods, balancers, mixtures, backbones and suites, each with a sentence.

    Method names go to `taskgrove compare --methods a,b` and `taskgrove train NAME`.
    """
    from rich.console import Console
    from rich.table import Table

    from taskgrove.methods import METHODS
    from taskgrove.suites import SUITES

    table = Table(box=None, pad_edge=False, title_justify="left", title="methods")
    table.add_column("name", style="bold")
    table.add_column("what it does")
    for name, method in METHODS.items():
        table.add_row(name, method.about)
    suites = Table(box=None, pad_edge=False, title_justify="left", title="\nsuites")
    suites.add_column("name", style="bold")
    suites.add_column("what it holds")
    for name, suite in SUITES.items():
        suites.add_row(name, suite.description)
    console = Console()
    console.print(table)
    console.print(suites)
