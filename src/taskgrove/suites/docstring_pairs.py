"""Four small sets of text pairs from Python's own documentation, for quick runs: always there.

They have the forms of embedding_pairs (two tasks of partners, two of classes) and its names, but
not its meaning: no score on them counts.

    retrieval    the rest of a docstring -> its first line
    translation  a name, in words -> the first line of its docstring
    role         first lines; those of one module are a pair
    valence      names in words; those that begin with a .. m are a pair, and so are the others
"""

import ast
import re
import sysconfig
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from taskgrove.suites.embedding_pairs import Pair

MODULES = ("argparse", "ast", "calendar", "datetime", "doctest", "inspect", "statistics", "string")
SPLITS = ("train", "train", "probe", "test")  # in turn


@cache
def docstrings() -> tuple[Pair, ...]:
    """All rows; a docstring's rows share a split."""
    rows: list[Pair] = []
    for number, (module, node, first, rest) in enumerate(documented()):
        split, name = SPLITS[number % len(SPLITS)], words(node.name)
        half = "early" if name < "n" else "late"
        if rest:
            rows.append(Pair("retrieval", split, rest, first))
        rows.append(Pair("translation", split, name, first))
        rows.append(Pair("role", split, first, label=module))
        rows.append(Pair("valence", split, name, label=half))
    return tuple(rows)


def documented() -> Iterator[tuple[str, ast.FunctionDef | ast.ClassDef, str, str]]:
    """Module, definition, first line and rest of each docstring."""
    for module in MODULES:
        source = Path(sysconfig.get_paths()["stdlib"]) / f"{module}.py"
        if not source.exists():  # a package since Python 3.12, or left out
            continue
        for node in ast.walk(ast.parse(source.read_text("utf8"))):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                text = ast.get_docstring(node) or ""
                first, _, rest = text.partition("\n")
                if len(first) > 20:
                    yield module, node, first, " ".join(rest.split())[:200]


def words(name: str) -> str:
    """A name taken apart.

    >>> words("_getFirstLine"), words("read_all")
    ('get first line', 'read all')
    """
    return " ".join(re.findall(r"[A-Z]?[a-z]+|[A-Z]+|\\d+", name)).lower() or name
