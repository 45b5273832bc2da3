"""Pieces of a tasks.yaml as text: scalars in quotes where needed, lines with their reasons."""

import json
import os
import re
import textwrap
from pathlib import Path


def path_from(path: Path, folder: Path) -> str:
    """A path as it stands in a file of `folder`."""
    relative = os.path.relpath(path.resolve(), folder.resolve())
    return quoted(Path(relative).as_posix())


def quoted(text: str) -> str:
    """A YAML scalar, in quotes where YAML would misread it.

    >>> quoted("body"), quoted("no"), quoted("a: b")
    ('body', '"no"', '"a: b"')
    """
    plain = re.fullmatch(r"[^\W\d][\w./-]*( [\w./-]+)*", text)
    if plain and text.lower() not in ("y", "n", "yes", "no", "on", "off", "true", "false", "null"):
        return text
    return json.dumps(text, ensure_ascii=False)


def line(text: str, why: str) -> str:
    """A line of YAML with its reason as a comment."""
    return f"{text:<38}  # {why}" if why else text


def wrapped(text: str) -> list[str]:
    """A comment of several lines."""
    return [f"# {part}" for part in textwrap.wrap(text, 96)]
