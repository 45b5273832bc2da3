"""Suite `debtags`: seven tags of one text, Debian's package descriptions, from apt's own index.

One text column (the synopsis and the first lines of the description) and seven label columns:
the archive section, and the debtags facets role, implemented-in, interface, use, works-with and
uitoolkit. A package without a facet, or with several values of it, has no label there. Packages
of one source share the key `source`; synopses that agree in their letters are kept once.

The texts follow their packages' licences, so they are kept in the user's cache and ship with
nothing.
"""

import hashlib
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from taskgrove.errors import TaskgroveError
from taskgrove.suites.cache import fill
from taskgrove.suites.debian_index import Package, fetch_index, read_index

FACETS = ("role", "implemented-in", "interface", "use", "works-with", "uitoolkit")
TASKS = ("section", *FACETS)
LEAST_ROWS = 60  # of a class
MOST_CLASSES = {"section": 30}  # of a task; 12 where nothing is said
MOST_LETTERS = 600  # of a text


def build(
    folder: Path, progress: Callable[[str], None] | None = None, most_rows: int = 20_000
) -> Path:
    """The suite's tasks.yaml in `folder`; where missing, apt reads about 30 MB to make it."""
    say = progress or (lambda _: None)

    def write(aside: Path) -> None:
        with tempfile.TemporaryDirectory(prefix="taskgrove-apt-") as scratch:
            say("asks apt for the package index (about 30 MB, the system's lists stay as they are)")
            found = read_index(*fetch_index(Path(scratch)))
        if not any(package.tags for package in found.values()):
            raise TaskgroveError(
                f"apt's index has no debtags among its {len(found):,} packages; expected the "
                "index of a Debian release."
            )
        kept = choose(found, most_rows)
        say(f"keeps {len(kept):,} of {len(found):,} packages")
        save(aside, kept, found)

    return fill(folder, write)


def text_of(package: Package) -> str:
    """Synopsis, then the description's words, cut at a blank within MOST_LETTERS."""
    text = (package.synopsis + "\n" + " ".join(package.body.split())).strip()
    if len(text) <= MOST_LETTERS:
        return text
    return text[: MOST_LETTERS + 1].rsplit(" ", 1)[0][:MOST_LETTERS]


def letters(text: str) -> str:
    """What stays of a synopsis that differs only in numbers, punctuation and case.

    >>> letters("GNU C++ compiler (version 12)") == letters("Gnu C compiler, version 13")
    True
    """
    return "".join(letter for letter in text.casefold() if letter.isalpha())


def choose(found: dict[str, Package], most_rows: int) -> list[str]:
    """Names of the packages kept, in alphabetical order: those with a facet of ours come first."""

    def place(name: str) -> tuple[bool, str]:
        return not any(facet in found[name].tags for facet in FACETS), digest(name)

    kept: dict[str, str] = {}  # letters of the synopsis: name
    for name in sorted(found, key=place):
        if found[name].synopsis:
            kept.setdefault(letters(found[name].synopsis), name)
    return sorted(list(kept.values())[:most_rows])


def digest(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def label_of(package: Package, task: str) -> str | None:
    """The section, or the facet's value where there is exactly one."""
    if task == "section":
        return package.section or None
    values = package.tags.get(task, set())
    return next(iter(values)) if len(values) == 1 else None


def labels_of(packages: list[Package], task: str) -> list[str | None]:
    """One label a package; None where it has none, or where its class is rare."""
    raw = [label_of(package, task) for package in packages]
    counts = Counter(label for label in raw if label is not None)
    often = [item for item in counts.items() if item[1] >= LEAST_ROWS]
    often.sort(key=lambda item: (-item[1], item[0]))
    classes = {label for label, _ in often[: MOST_CLASSES.get(task, 12)]}
    return [label if label in classes else None for label in raw]


def save(folder: Path, kept: list[str], found: dict[str, Package]) -> None:
    """debtags.parquet: text, source, package and a column of labels per task; and tasks.yaml."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    packages = [found[name] for name in kept]
    labels = [labels_of(packages, task) for task in TASKS]
    rows = [
        (text_of(package), package.source, name, *row)
        for package, name, row in zip(packages, kept, zip(*labels, strict=True), strict=True)
        if any(label is not None for label in row)
    ]
    names = ("text", "source", "package", *TASKS)
    columns = {name: [row[i] for row in rows] for i, name in enumerate(names)}
    table = pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})
    pq.write_table(table, folder / "debtags.parquet", compression="zstd")
    (folder / "tasks.yaml").write_text(tasks(columns), encoding="utf8")


def tasks(columns: dict[str, list]) -> str:
    """The text of tasks.yaml; a task whose labels are all rare is left out."""
    lines = [
        "# Seven tags of one text: Debian's package descriptions; written by taskgrove.",
        "data: debtags.parquet",
        "text: text",
        "key: source",
        "kind: classes",
        "metric: accuracy",
        "backbone: minilm",
        "max_length: 64",
        "tasks:",
    ]
    names = [task for task in TASKS if len(set(columns[task]) - {None}) > 1]
    lines += [f"  {name.replace('-', '_')}: {{target: {name}}}" for name in names]
    return "\n".join(lines) + "\n"
