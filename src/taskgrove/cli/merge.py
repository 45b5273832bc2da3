"""taskgrove merge METHOD: several checkpoints of one model become one, at the speed of the disk.

Each static method's command is made from its parameters' dataclass, so that options, help, recipe
files and Python have the same names and defaults.
"""

from collections.abc import Callable
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer
from typer.core import TyperCommand, TyperGroup

from taskgrove.cli.merge_run import carry_out
from taskgrove.cli.signature import is_one, option, parameter, sign
from taskgrove.errors import TaskgroveError

if TYPE_CHECKING:
    from taskgrove.merging.static.static import Static

USAGE: Any = typer.BadParameter.__mro__[1]  # whatever is wrong with the words given
RECIPES = (".yaml", ".yml", ".json")
OTHERS = {  # commands of their own, by module
    "adamerging": "taskgrove.cli.merge_learned",
    "atlas": "taskgrove.cli.merge_atlas",
    "self_positioning": "taskgrove.cli.merge_learned",
    "rebasin": "taskgrove.cli.merge_rebasin",
}

Tuned = Annotated[
    list[str], typer.Option("--tuned", help="The tuned models: --tuned A B C.", show_default=False)
]
Base = Annotated[
    str | None,
    typer.Option("--base", "-b", help="The model they were tuned from.", show_default=False),
]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="Folder of the merged model.")]
Only = Annotated[
    bool,
    typer.Option("--plan", help="Say what would be done and every problem, from headers; stop."),
]
Dtype = Annotated[
    str | None,
    typer.Option(help="Of the result: fp32, bf16, fp16. [default: the base's]", show_default=False),
]
Vocabulary = Annotated[
    str | None,
    typer.Option(
        help="Match rows of embeddings by token, where vocabularies differ: union, or base.",
        show_default=False,
    ),
]
Ignore = Annotated[
    list[str] | None,
    typer.Option(
        help="Patterns of tensors to leave as the base has them, such as 'classifier.*'.",
        show_default=False,
    ),
]
ShardSize = Annotated[float, typer.Option(help="GB of a file, at most.")]
AllowNan = Annotated[bool, typer.Option("--allow-nan", help="Merge NaN and infinity too.")]
Threads = Annotated[
    int | None, typer.Option(help="[default: as many as cores, at most 4]", show_default=False)
]
Tasks = Annotated[
    str | None,
    typer.Option(
        "--tasks",
        "-t",
        help="A tasks.yaml: judge each task before and after, on its test rows.",
        show_default=False,
    ),
]


class Methods(TyperGroup):
    """The merging methods as commands, made when they are asked for."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002
        """Names, in the table's order."""
        from taskgrove.merging.static.table import STATIC

        return [*STATIC, *OTHERS]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002
        """The command of a method, or of a recipe file."""
        from taskgrove.merging.plan import static_of

        if cmd_name.endswith(RECIPES):
            return _command(_of_file(Path(cmd_name)), cmd_name)
        name = cmd_name.replace("-", "_")
        if name in OTHERS:
            return _command(getattr(import_module(OTHERS[name]), name), cmd_name)
        return _command(_of_method(name, static_of(name)), cmd_name)


app = typer.Typer(
    cls=Methods,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Several checkpoints of one model become one, without training, at the speed of the disk;"
    " or with coefficients learned from unlabelled rows.",
    epilog="`taskgrove merge ties --base B --tuned A1 A2 --out M`; `--plan` checks everything"
    " first. A recipe.yaml (method, base, tuned, parameters) can stand in METHOD's place.",
)


@app.callback()
def merge() -> None:
    """The group."""


class OneSentence(TyperCommand):
    """A command whose misuse is told as all else is: one sentence, exit code 2."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """The words that follow the method's name."""
        try:
            return super().parse_args(ctx, args)
        except USAGE as error:
            words = error.format_message().strip().rstrip(".")
            if words.startswith("Missing option"):
                words = f"it needs {error.param.opts[0]}: {error.param.help.rstrip('.')}"
            raise TaskgroveError(
                f"{self.name}: {words}; `taskgrove merge {self.name} --help` shows all options."
            ) from None


def _command(function: Callable[..., None], name: str) -> Any:
    one = typer.Typer(add_completion=False, rich_markup_mode="markdown")
    one.command(name, cls=OneSentence)(function)
    return typer.main.get_command(one)


def _of_method(name: str, static: "Static") -> Callable[..., None]:
    """The command's function, with the method's parameters among its own."""

    def run(**options: Any) -> None:
        from taskgrove.merging.plan import Recipe

        given = {f.name: options.pop(asked[f.name]) for f in every}
        given = {n: tuple(v) if isinstance(v, list) else v for n, v in given.items()}
        given = {n: v[0] if is_one(v, kinds[n]) else v for n, v in given.items() if v is not None}
        recipe = Recipe(
            name,
            tuple(options["tuned"]),
            options["base"],
            given,
            options["dtype"],
            tuple(options["ignore"] or ()),
            round(options["shard_size"] * 1e9),
            options["allow_nan"],
            {kind: options[kind] for kind in static.beside},
            options["vocabulary"],
        )
        carry_out(recipe, options["out"], options["plan"], options["threads"], options["tasks"])

    kinds = get_type_hints(static.parameters)
    every = fields(static.parameters)
    # consensus has a parameter "tasks": what all methods ask for keeps the short name
    asked = {f.name: f"{name}_tasks" if f.name == "tasks" else f.name for f in every}
    own = [option(f, static.parameters).replace(name=asked[f.name]) for f in every]
    parameters = [
        parameter("tuned", Tuned),
        parameter("base", Base, None),
        parameter("out", Out, None),
        *own,
        *(parameter(kind, _beside(kind)) for kind in static.beside),
        parameter("plan", Only, False),
        parameter("dtype", Dtype, None),
        parameter("ignore", Ignore, None),
        parameter("vocabulary", Vocabulary, None),
        parameter("shard_size", ShardSize, 5.0),
        parameter("allow_nan", AllowNan, False),
        parameter("threads", Threads, None),
        parameter("tasks", Tasks, None),
    ]
    sign(run, parameters)
    run.__doc__ = f"{static.about[0].upper()}{static.about[1:]}."
    return run


def _beside(kind: str) -> Any:
    """The option of what lies beside each model."""
    text = f"A folder a model, as `taskgrove merge-statistics {kind}` writes it."
    return Annotated[list[str], typer.Option(f"--{kind}", help=text, show_default=False)]


def _of_file(path: Path) -> Callable[..., None]:
    def run(
        out: Out = None, plan: Only = False, threads: Threads = None, tasks: Tasks = None
    ) -> None:
        """Merges as a recipe file says: method, base, tuned, parameters, dtype, ignore."""
        from taskgrove.merging.recipe import recipe_of

        carry_out(recipe_of(path), out, plan, threads, tasks)

    return run
