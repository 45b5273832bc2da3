"""Options of the commands that fuse models while they generate."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from taskgrove.errors import TaskgroveError

if TYPE_CHECKING:
    from taskgrove.composing.dynamic_alpha import Rule

Large = Annotated[
    Path | None,
    typer.Option(help="The large model's folder; it is not trained.", show_default=False),
]
Small = Annotated[
    Path | None,
    typer.Option(
        help="The small model's folder, as it was before tuning; the same tokenizer.",
        show_default=False,
    ),
]
Experts = Annotated[
    list[Path] | None,
    typer.Option("--experts", help="Tuned copies of the small model, whole.", show_default=False),
]
Method = Annotated[
    str,
    typer.Option(
        help="How several experts are weighed: axes, random (axes and drawn averages), joint."
    ),
]
Alpha = Annotated[
    float | None,
    typer.Option(
        help="A fixed weight in place of a chosen one; 1 is proxy tuning.", show_default=False
    ),
]


def rule(method: str, alpha: float | None) -> "Rule":
    """How alpha is chosen."""
    from taskgrove.composing.dynamic_alpha import Rule

    return Rule(method, alpha=alpha)


def beside(small: Path | None, experts: list[Path] | None) -> tuple[Path, list[Path]]:
    """The models that run beside the large one; both options are needed."""
    if small is None or not experts:
        missing = "--small" if small is None else "--experts"
        raise TaskgroveError(
            f"{missing} is missing; expected --small with the small model's folder and --experts"
            " with one tuned copy of it or more."
        )
    return small, experts


def names(folders: list[Path]) -> list[str]:
    """The folders' own names where these differ, else the paths."""
    short = [folder.resolve().name for folder in folders]
    return short if len(set(short)) == len(short) else [str(folder) for folder in folders]
