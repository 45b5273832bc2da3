"""Rows of the Debian tasks: a package's synopsis, and what each facet says of it.

Packages of one source lie in one part. The test part depends on the source's name alone, so that it
is the same for all seeds and no setting can have seen it; each seed cuts the rest anew into
train, validation and an unlabelled pool. Synopses that agree in their letters are kept once.

The index is read once and kept in the user's cache (see suites/debian_index). `made_up` rows have
the same form and need neither apt nor a network; they are for quick runs, where no score counts.
"""

import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from itertools import accumulate
from pathlib import Path
from random import Random

import pyarrow as pa

from taskgrove.suites.debian_index import Package, fetch_index, read_index
from taskgrove.suites.debtags import digest, letters
from taskgrove.tasks.cache import kept_table

TASKS = ("role", "implemented-in", "uitoolkit", "use", "works-with", "suite")
TARGETS = ("section", "interface")  # for few-shot learning from the six
PARTS = {"train": 0.5, "validation": 0.15, "pool": 0.15}  # and a fifth for test
COLUMNS = ("synopsis", "source", *TASKS, *TARGETS)
UNDECIDED = "TODO"  # a tag by which Debian marks what nobody has looked at
LEAST_ROWS, MOST_CLASSES = 60, 12

Table = dict[str, list[str | None]]


@dataclass(frozen=True)
class Rows:
    """Texts of one task and part, with their labels."""

    texts: list[str]
    labels: list[int]  # places in `classes`


@dataclass(frozen=True)
class TaskRows:
    """One task of one seed."""

    name: str
    classes: tuple[str, ...]
    parts: dict[str, Rows]  # train, validation, pool, test


@cache
def debian() -> Table:
    """COLUMNS of every package with a synopsis of its own, in alphabetical order of the names."""
    with tempfile.TemporaryDirectory(prefix="taskgrove-apt-") as scratch:

        def batches() -> Iterator[pa.RecordBatch]:
            found = read_index(*fetch_index(Path(scratch)))
            columns = columns_of(found)
            arrays = [pa.array(column, pa.string()) for column in columns.values()]
            yield pa.RecordBatch.from_arrays(arrays, list(columns))

        return kept_table("debian-facets-1", batches).to_pydict()


def columns_of(found: dict[str, Package]) -> Table:
    """The table of an index; of several packages with one synopsis, one chosen by its digest."""
    kept: dict[str, str] = {}  # letters of the synopsis: name
    for name in sorted(found, key=digest):
        if found[name].synopsis:
            kept.setdefault(letters(found[name].synopsis), name)
    packages = [found[name] for name in sorted(kept.values())]
    columns: Table = {"synopsis": [p.synopsis for p in packages]}
    columns["source"] = [p.source for p in packages]
    for task in (*TASKS, *TARGETS):
        columns[task] = [_label(package, task) for package in packages]
    return columns


def _label(package: Package, task: str) -> str | None:
    """The section, or the facet's value where there is exactly one that was decided."""
    if task == "section":
        return package.section or None
    values = package.tags.get(task, set())
    return next(iter(values)) if len(values) == 1 and UNDECIDED not in values else None


def made_up(rows: int = 1600) -> Table:
    """Sentences of which a word or two tell the labels."""
    random, columns = Random(0), {name: [] for name in COLUMNS}
    for number in range(rows):
        labels = {task: f"{task}{random.randrange(3)}" for task in (*TASKS, *TARGETS)}
        words = [f"word{random.randrange(40)}" for _ in range(random.randrange(1, 5))]
        words += random.sample(list(labels.values()), 5)
        columns["synopsis"].append(" ".join(random.sample(words, len(words))))
        columns["source"].append(f"source{number // 2}")
        for task, label in labels.items():
            columns[task].append(label)
    return columns


def task_rows(table: Table, task: str, seed: int, counts: dict[str, int]) -> TaskRows:
    """At most `counts` rows a part; at most twice an even share of them in one class."""
    seen = Counter(label for label in table[task] if label is not None)
    often = sorted((-n, label) for label, n in seen.items() if n >= LEAST_ROWS)[:MOST_CLASSES]
    classes = tuple(sorted(label for _, label in often))
    places = {label: place for place, label in enumerate(classes)}
    found: dict[str, list[tuple[float, str, int]]] = {part: [] for part in (*PARTS, "test")}
    for text, source, label in zip(table["synopsis"], table["source"], table[task], strict=True):
        if label in places:
            part = part_of(str(source), seed)
            order = share("test" if part == "test" else seed, task, text)
            found[part].append((order, str(text), places[label]))
    capped = {part: _capped(rows, counts[part], len(classes)) for part, rows in found.items()}
    return TaskRows(task, classes, capped)


def part_of(source: str, seed: int) -> str:
    """test, or by the seed one of PARTS."""
    if share(source) < 1 - sum(PARTS.values()):
        return "test"
    place, ends = share(seed, source) * sum(PARTS.values()), accumulate(PARTS.values())
    return next((part for part, end in zip(PARTS, ends, strict=True) if place < end), "pool")


def share(*of: object) -> float:
    """A number in [0, 1) that depends on `of` alone."""
    told = "\0".join(str(one) for one in of)
    return int.from_bytes(blake2b(told.encode(), digest_size=7).digest(), "big") / 2**56


def _capped(rows: list[tuple[float, str, int]], count: int, classes: int) -> Rows:
    taken, of_class = [], Counter()
    for _, text, label in sorted(rows):
        if len(taken) < count and of_class[label] < 2 * count / classes:
            of_class[label] += 1
            taken.append((text, label))
    return Rows([text for text, _ in taken], [label for _, label in taken])


def first_shots(rows: Rows, k: int) -> Rows:
    """The first k rows of each class, so that fewer shots are among more."""
    of_class, taken = Counter(), []
    for text, label in zip(rows.texts, rows.labels, strict=True):
        if of_class[label] < k:
            of_class[label] += 1
            taken.append((text, label))
    return Rows([text for text, _ in taken], [label for _, label in taken])
