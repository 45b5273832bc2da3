"""What a column is for, judged by its name and its first values; each judgement carries its reason.

Roles: image, text, split, key, classes, labels, number, category, or none.
"""

import math
import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

from taskgrove.tasks.columns import NULLS, is_number
from taskgrove.tasks.image_folder import is_image
from taskgrove.tasks.split_names import split_name

KEYS = re.compile(
    "ids?|key|uu?id|user|customer|client|patient|subject|author|account|session|group|speaker|"
    "family|household|company|owner|device|person|member|document|source"
)
TARGETS = re.compile("labels?|targets?|class(es)?|y|outcome|output|response|tags?")
MOST_CLASSES = 100
FEW_NUMBERS = 20  # numbers with at most this many different values are classes
SAFE = 10  # keys a class needs so that a hash hardly ever leaves it out of train


@dataclass(frozen=True)
class Look:
    """A column, its role and why."""

    name: str
    role: str
    why: str
    size: float = 0.0  # mean length of a text
    separator: str | None = None  # of labels in one cell
    rare: bool = False  # some label stands in few rows


def look(name: str, values: list[Any], keys: list[Any] | None = None) -> Look:
    """The role of a column; `keys` are its rows' keys, so that rare labels are counted by key."""
    present = [value for value in values if value is not None]
    if not present:
        return Look(name, "none", "empty")
    if _are_images(present):
        return Look(name, "image", "pictures")
    if all(isinstance(value, list) for value in present):
        return _labels(name, values, None, keys)
    if any(isinstance(value, dict | list | bytes) for value in present):
        return Look(name, "none", f"holds {type(present[0]).__name__} values")
    words = [None if value is None else _word(value) for value in values]
    return _words(name, words, keys)


def _words(name: str, words: list[str | None], keys: list[Any] | None) -> Look:
    """The role of a column of text or numbers."""
    numeric = all(is_number(word) or word in NULLS for word in words if word)
    present = [word for word in words if word and not (numeric and word in NULLS)]
    counts = Counter(present)
    distinct, rows = len(counts), len(present)
    mean = sum(map(len, present)) / max(rows, 1)
    if not present:
        return Look(name, "none", "empty")
    if all(map(split_name, counts)) and "train" in map(split_name, counts):
        return Look(name, "split", "it names the split of each row")
    if rows > 2 and present[0].isdecimal() and _counts_up(present):
        return Look(name, "none", "counts the rows")
    finite = not numeric or all(math.isfinite(float(word)) for word in counts)
    whole = not (numeric and "." in "".join(counts))
    blanks = sum(word.count(" ") for word in present) / rows
    if _sounds_like(name, KEYS) and rows == len(words) and whole and blanks < 1:
        if distinct == rows:
            return Look(name, "none", "different in every row")
        if distinct >= 2 * FEW_NUMBERS:
            return Look(name, "key", f"looks like an id and repeats ({distinct} values)")
    if numeric and distinct > FEW_NUMBERS:
        if not finite:
            return Look(name, "none", "holds infinite or undefined numbers")
        return Look(name, "number", f"{distinct} different numbers")
    if _is_date(present):
        return Look(name, "none", "dates")
    if distinct < 2:
        return Look(name, "none", f"always {next(iter(counts), '')!r}"[:60])
    if cut := _separator(counts):
        found = _labels(name, words, cut, keys)
        if found.role == "labels":
            return found
    if distinct <= min(MOST_CLASSES, max(2, rows // 5)):
        rare = _rare([[word] if word else [] for word in words], keys)
        return Look(name, "classes", f"{distinct} different values", rare=rare)
    if not numeric and (mean >= 20 or sum(word.count(" ") for word in present) >= 2 * rows):
        return Look(name, "text", f"text, {mean:.0f} characters on average", mean)
    return Look(name, "none", f"{distinct} different values in {rows} rows")


def _labels(name: str, cells: list[Any], separator: str | None, keys: list[Any] | None) -> Look:
    parts = [
        cell
        if isinstance(cell, list)
        else [part.strip() for part in cell.split(separator)]
        if cell
        else []
        for cell in cells
    ]
    if any(isinstance(part, dict | list | bytes) for cell in parts for part in cell):
        return Look(name, "none", "holds nested lists")
    distinct = len({part for cell in parts for part in cell if part})
    if not 2 <= distinct <= min(2 * MOST_CLASSES, max(2, sum(map(len, parts)) // 3)):
        return Look(name, "none", f"lists of {distinct} different values")
    why = f"{distinct} labels, several in a cell"
    return Look(name, "labels", why, separator=separator, rare=_rare(parts, keys))


def _rare(labels: list[list[Any]], keys: list[Any] | None) -> bool:
    """Whether some label has fewer than SAFE keys (or rows, without a key)."""
    pairs = {
        (label, row if keys is None else keys[row])
        for row, found in enumerate(labels)
        for label in found
    }
    return min(Counter(label for label, _ in pairs).values(), default=0) < SAFE


def _separator(counts: Counter[str]) -> str | None:
    """The character that cuts many cells into parts that come again in other cells."""
    for cut in (";", "|", ","):
        cells = [cell for cell in counts if cut in cell]
        used = sum(counts[cell] for cell in cells)
        if used < 0.1 * sum(counts.values()) or used < 2:
            continue
        parts = Counter(part.strip() for cell in counts for part in cell.split(cut))
        if parts.total() >= 1.3 * len(parts) and max(map(len, parts)) <= 40:
            return cut
    return None


def _are_images(values: list[Any]) -> bool:
    first = values[:100]
    if all(isinstance(value, bytes) for value in first):
        return all(_is_picture(value) for value in first)
    if all(isinstance(value, dict) and "bytes" in value for value in first):
        return all(not value["bytes"] or _is_picture(value["bytes"]) for value in first)
    return all(isinstance(value, str) and is_image(value.strip()) for value in first)


def _is_picture(content: bytes) -> bool:
    starts = (b"\x89PNG", b"\xff\xd8", b"GIF8", b"BM", b"II*", b"MM\0", b"P5", b"P6", b"RIFF")
    return content.startswith(starts)


def _counts_up(words: list[str]) -> bool:
    return words == [str(int(words[0]) + n) for n in range(len(words))]


def _sounds_like(name: str, words: re.Pattern[str]) -> bool:
    parts = re.split(r"[^a-z]+", re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower())
    return any(words.fullmatch(part) for part in parts)


def sounds_like_target(name: str) -> bool:
    """Whether a table's column is called what targets are called.

    >>> sounds_like_target("class"), sounds_like_target("price")
    (True, False)
    """
    return _sounds_like(name, TARGETS)


def _is_date(words: list[str]) -> bool:
    return all(re.match(r"\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}", word) for word in words[:100])


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()
