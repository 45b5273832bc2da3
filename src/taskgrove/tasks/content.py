"""What makes two rows the same row: a 64-bit digest of the content of their input columns.

Text is folded first (NFKC, lower case, letters only, single blanks), so near-duplicates that differ
in digits, punctuation or spacing agree; a text without letters stands as it is. Images count by the
bytes of their file, numbers as float32.
"""

# pyright: reportAttributeAccessIssue=false
# pyarrow.compute makes its functions when it is imported

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from taskgrove.tasks.splits import digests

BATCH = 8_192  # rows folded at once


LETTERS = bytes(ord(c.lower()) if c.isalpha() else 32 for c in map(chr, range(128))) + bytes(128)


def fold(texts: list[str | None]) -> list[str]:
    """Texts as they are compared.

    >>> fold(["Call 555-0199 NOW!", "call  now", "12:30"])
    ['call now', 'call now', '12:30']
    """
    given = [text or "" for text in texts]
    folded = [
        b" ".join(text.encode().translate(LETTERS).split()).decode() if text.isascii() else None
        for text in given
    ]
    other = [place for place, text in enumerate(folded) if text is None]
    for place, text in zip(other, _fold_any([given[place] for place in other]), strict=True):
        folded[place] = text
    return [text or whole for text, whole in zip(folded, given, strict=True)]


def _fold_any(texts: list[str]) -> list[str]:
    """The same for texts in any script."""
    lower = pc.utf8_lower(pc.utf8_normalize(pa.array(texts, pa.string()), form="NFKC"))
    letters = pc.replace_substring_regex(lower, pattern=r"[^\p{L}\p{M}]+", replacement=" ")
    return pc.utf8_trim_whitespace(letters).to_pylist()


def text_digests(columns: list[pa.ChunkedArray]) -> np.ndarray:
    """uint64 [row] of one or several text columns."""
    parts = [digests(_folded(column)) for column in columns]
    return parts[0] if len(parts) == 1 else combine(parts)


def _folded(column: pa.ChunkedArray) -> Iterator[str]:
    for chunk in column.chunks:
        for start in range(0, len(chunk), BATCH):
            yield from fold(chunk.slice(start, BATCH).to_pylist())


def value_digests(numbers: np.ndarray, categories: list[pa.ChunkedArray]) -> np.ndarray:
    """uint64 [row] of numbers float32 [row number] and category columns."""
    numbers = np.ascontiguousarray(np.where(np.isnan(numbers), np.nan, numbers + 0.0), "<f4")
    parts = [digests(row.tobytes() for row in numbers)] if numbers.shape[1] else []
    for column in categories:
        values = (v for chunk in column.chunks for v in chunk.to_pylist())
        parts.append(digests("\0" if value is None else value for value in values))
    return parts[0] if len(parts) == 1 else combine(parts)


def combine(parts: list[np.ndarray]) -> np.ndarray:
    """One digest a row from several."""
    rows = np.ascontiguousarray(np.stack(parts, axis=1), "<u8")  # [row part]
    return digests(row.tobytes() for row in rows)
