"""Real text of several kinds that lies in every installation: nothing is downloaded.

- `python`     sources of Python's standard library
- `headers`    C++ headers that come with torch
- `yaml`       the declarations of torch's operators and of their derivatives, with torch
- `docs`       docstrings of numpy, scipy and scikit-learn: English with formulas and examples
- `prose`      Python's language reference (pydoc_data), licences and descriptions of the packages
- `cython`     sources of pyarrow, scipy and scikit-learn: Python with C types, a kind between two

A kind is a list of documents of up to 8 kB, each a file or a part of one, without copies, in an
order that is the same on machines with the same packages.
"""

import ast
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from hashlib import blake2b
from importlib.util import find_spec
from pathlib import Path

from taskgrove.errors import TaskgroveError, did_you_mean, listed

PART = 8192  # characters of a document
MOST = 1_200_000  # characters of a kind


@cache
def documents(kind: str) -> tuple[str, ...]:
    """The documents of a kind, mixed, up to `MOST` characters."""
    if kind not in KINDS:
        raise TaskgroveError(
            f'there is no text of the kind "{kind}" (there are: {listed(KINDS)}).'
            f"{did_you_mean(kind, KINDS)}"
        )
    found, size, seen = [], 0, set()
    for text in KINDS[kind]():
        for part in _parts(text):
            mark = _mark(part)
            if mark not in seen and size < MOST:
                seen.add(mark)
                found.append(part)
                size += len(part)
        if size >= MOST:
            break
    if size < MOST // 4:
        raise TaskgroveError(
            f'there are {size} characters of the kind "{kind}" in this installation, expected'
            f" {MOST // 4} or more; install the packages whose files it is made of: numpy, scipy,"
            " scikit-learn, pyarrow and torch, and Python with its standard library."
        )
    return tuple(sorted(found, key=_mark))


def _parts(text: str) -> Iterator[str]:
    """Whole lines, up to PART characters together; scraps are left out."""
    part = ""
    for line in text.splitlines(keepends=True):
        if part and len(part) + len(line) > PART:
            yield part
            part = ""
        part += line
    if len(part) > 200:
        yield part


def _mark(text: str) -> str:
    """Copies that differ in white space have one mark."""
    return blake2b("".join(text.split()).encode(), digest_size=12).hexdigest()


def _texts(paths: Iterable[Path]) -> Iterator[str]:
    """Files in an order mixed by their names, as text; what is not UTF-8 is left out."""
    for path in sorted(paths, key=lambda path: _mark("/".join(path.parts[-3:]))):
        try:
            yield path.read_text("utf-8")
        except (OSError, UnicodeDecodeError):
            continue


def _package(name: str) -> Path | None:
    """Where a package lies; it is not imported."""
    spec = find_spec(name)
    return None if spec is None or spec.origin is None else Path(spec.origin).parent


def _files(pattern: str, *packages: str) -> Iterator[str]:
    folders = [folder for name in packages if (folder := _package(name)) is not None]
    return _texts(path for folder in folders for path in folder.rglob(pattern))


def _python() -> Iterator[str]:
    root = Path(sysconfig.get_paths()["stdlib"])
    skipped = {"site-packages", "test", "tests", "pydoc_data", "encodings", "idlelib"}
    return _texts(
        path for path in root.rglob("*.py") if not skipped & set(path.relative_to(root).parts)
    )


def _docstrings() -> Iterator[str]:
    for text in _files("*.py", "numpy", "scipy", "sklearn"):
        try:
            tree = ast.parse(text)
        except (SyntaxError, ValueError):
            continue
        nodes = (ast.FunctionDef, ast.ClassDef, ast.Module)
        found = (ast.get_docstring(n) for n in ast.walk(tree) if isinstance(n, nodes))
        yield "\n\n".join(doc for doc in found if doc and len(doc) > 200) + "\n"


def _prose() -> Iterator[str]:
    topics = _package("pydoc_data")
    if topics is not None:
        from pydoc_data.topics import topics as pages

        yield from (pages[name] for name in sorted(pages, key=_mark))
    site = Path(sysconfig.get_paths()["purelib"])
    yield from _texts(site.glob("*.dist-info/**/[LMNC]*"))


KINDS: dict[str, Callable[[], Iterator[str]]] = {
    "python": _python,
    "headers": lambda: _files("*.h", "torch"),
    "yaml": lambda: _files("*.yaml", "torchgen"),
    "docs": _docstrings,
    "prose": _prose,
    "cython": lambda: _files("*.pyx", "pyarrow", "scipy", "sklearn"),
}
