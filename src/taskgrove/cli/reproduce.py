"""taskgrove reproduce: does what a paper says hold here?"""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from taskgrove.cli import options as o
from taskgrove.errors import TaskgroveError

if TYPE_CHECKING:
    from rich.table import Table

    from taskgrove.measuring.claim import Claim


def reproduce(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[SYSTEM]...",
            help="See `taskgrove systems`. [default: all]",
            show_default=False,
        ),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Tiny sizes, two seeds: does it run? Proves nothing.")
    ] = False,
    seeds: Annotated[
        int | None,
        typer.Option(help="How many. [default: each claim's own, 5 or 10]", show_default=False),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(help="Parts side by side. [default: a core each]", show_default=False),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of claims.")] = Path(
        "results/claims"
    ),
) -> None:
    """Runs the claims of published systems on small real data and says whether they hold.

    - `taskgrove reproduce sam_mtl`
    - `taskgrove reproduce --quick`

    Writes a JSON file with all raw numbers and a plot for each system. A run that was stopped goes
    on with the same command.
    """
    import os

    from rich.console import Console

    from taskgrove.systems import SYSTEMS, system_of
    from taskgrove.systems.runs import reproduce as run

    chosen = [system_of(name) for name in dict.fromkeys(names or SYSTEMS)]
    jobs = (os.cpu_count() or 1) if jobs is None else jobs
    for option, value in (("--seeds", seeds), ("--jobs", jobs)):
        if value is not None and value < 1:
            raise TaskgroveError(f"{option} is {value}: it must be 1 or more")
    command, console = shlex.join(["taskgrove", *sys.argv[1:]]), Console()
    for system in chosen:
        count = seeds or (2 if quick else system.seeds)
        with o.bar() as bar:

            def tell(_arm: str, _seed: int, done: float, slug: str = system.slug) -> None:
                bar.tell(slug, "running", done, {})

            claim = run(
                system, out, range(count), quick=quick, jobs=jobs, command=command, progress=tell
            )
        console.print(table(claim))
        for statement in claim.statements:
            mark = "●" if statement.decides else "·"
            console.print(f"{mark} {statement.sentence()}", highlight=False, markup=False)
        word = " (quick: proves nothing)" if quick else ""
        print(f"\n{system.slug}: {claim.verdict}{word}")
        print(f"claim    {out / (system.slug + ('-quick' if quick else ''))}.json")


def table(claim: "Claim") -> "Table":
    """A row an arm: the mean over seeds in each group, and the standard deviation."""
    from statistics import mean, stdev

    from rich import box
    from rich.table import Table

    seeds = len(claim.seeds)
    caption = f"{claim.metric}: mean over {seeds} seeds ± their standard deviation"
    found = Table("arm", box=box.SIMPLE_HEAD, caption=caption, caption_justify="left")
    for group in claim.scores:
        found.add_column(group, justify="right")
    for arm in next(iter(claim.scores.values())):
        cells = [scores[arm] for scores in claim.scores.values()]
        found.add_row(arm, *(f"{mean(c):.2f} ± {stdev(c) if seeds > 1 else 0:.2f}" for c in cells))
    return found
