"""Suites: real data to start with, each a folder with a tasks.yaml and the files it names."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from taskgrove.errors import TaskgroveError, did_you_mean, listed


@dataclass(frozen=True)
class Suite:
    name: str
    description: str  # one sentence
    extra: str | None  # what `pip install "taskgrove[...]"` needs; None where nothing
    locate: Callable[[], Path]  # the tasks.yaml; builds the files where they do not ship


def _pictures() -> Path:
    return Path(__file__).parent / "pictures" / "tasks.yaml"


def _yeast() -> Path:
    from taskgrove.suites.cache import folder_of
    from taskgrove.suites.yeast import build

    return build(folder_of("yeast"))


def _debtags() -> Path:
    from taskgrove.suites.cache import folder_of
    from taskgrove.suites.debtags import build

    return build(folder_of("debtags"))


def _scenes() -> Path:
    from taskgrove.suites.cache import folder_of
    from taskgrove.suites.scenes import build

    return build(folder_of("scenes"))


SUITES = {
    suite.name: suite
    for suite in (
        Suite(
            "pictures",
            "Six small image tasks: handwritten digits, four emoji styles and clip art.",
            None,
            _pictures,
        ),
        Suite(
            "yeast",
            "Fourteen yes-or-no labels of one table: what each yeast gene does.",
            "yeast",
            _yeast,
        ),
        Suite(
            "debtags",
            "Seven tags of one text: Debian's package descriptions, read from apt's own index.",
            None,
            _debtags,
        ),
        Suite(
            "scenes",
            "Five maps of one picture: classes, depth, normals, edges, saliency of emoji scenes.",
            None,
            _scenes,
        ),
    )
}


def locate(name: str) -> Path:
    """The tasks.yaml of a suite; a suite that does not ship is built into the user's cache first.

    >>> locate("pictures").name
    'tasks.yaml'
    """
    if name not in SUITES:
        raise TaskgroveError(
            f'there is no suite "{name}" (there are: {listed(SUITES)}).{did_you_mean(name, SUITES)}'
        )
    return SUITES[name].locate()
