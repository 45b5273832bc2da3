"""The command line: one file a command; heavy imports wait until a command runs."""

import sys
from io import TextIOWrapper

import typer

from taskgrove import __version__
from taskgrove.cli.add import add
from taskgrove.cli.compare import compare
from taskgrove.cli.export_lora import export_lora
from taskgrove.cli.generate import app as generate
from taskgrove.cli.init import init
from taskgrove.cli.many import spread
from taskgrove.cli.merge import app as merge
from taskgrove.cli.merge_statistics import merge_statistics
from taskgrove.cli.predict import predict
from taskgrove.cli.reproduce import reproduce
from taskgrove.cli.serve import serve
from taskgrove.cli.suite import suite
from taskgrove.cli.systems import systems
from taskgrove.cli.train import train
from taskgrove.errors import TaskgroveError

STOPPED = 130  # typer's exit code after Ctrl-C

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="Many tasks, one root: which tasks help which, how should they share, and is one model for"
    " all better than one model each? **taskgrove compare** answers on your own data, and hands"
    " over the model.",
    epilog="Start with `taskgrove compare` (built-in pictures), then `taskgrove init your.csv`.",
)
for command in (compare, train, add, predict, init, systems, reproduce, suite):
    app.command()(command)
app.add_typer(merge, name="merge")
app.add_typer(generate, name="generate")
for command in (merge_statistics, serve, export_lora):
    app.command()(command)


@app.callback(invoke_without_command=True)
def root(
    version: bool = typer.Option(False, "--version", help="Print the version and stop."),
) -> None:
    """Options that stand before the command."""
    if version:
        print(__version__)
        raise typer.Exit


def main() -> None:
    """Runs the command; a user's mistake is one sentence and exit code 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # a code page that lacks the tables' stars
    try:
        app(spread(sys.argv[1:]))
    except TaskgroveError as error:
        print(f"taskgrove: {error}", file=sys.stderr)
        sys.exit(2)
    except SystemExit as end:
        if end.code == STOPPED:
            print("taskgrove: stopped; the same command goes on from here", file=sys.stderr)
        raise
