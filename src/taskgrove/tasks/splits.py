"""Which rows train, validate and test: by a stable hash of a key, or as the data say.

u = blake2b(key) / 2^64 in [0, 1); test where u < t, validation where t <= u < t + v, else train. A
key lands in the same split on every machine, in every run, row order and table.
Symbols: key [row] text or bytes, digest [row] uint64, split [row] int8: 0 train, 1 validation,
2 test, -1 left out.
"""

from collections.abc import Iterable
from hashlib import blake2b

import numpy as np
import pyarrow as pa

from taskgrove.errors import TaskgroveError, did_you_mean, listed
from taskgrove.tasks.split_names import SPLITS, TEST, TRAIN, VALIDATION, split_name

LEFT_OUT = -1


def digests(keys: Iterable[bytes | str]) -> np.ndarray:
    """A 64-bit digest of each key."""
    parts = (k.encode("utf-8", "surrogatepass") if isinstance(k, str) else k for k in keys)
    return np.frombuffer(b"".join(blake2b(p, digest_size=8).digest() for p in parts), "<u8")


def split_by_digest(digest: np.ndarray, validation: float, test: float) -> np.ndarray:
    """The split of each digest."""
    check_fractions(validation, test)
    u = digest.astype(np.float64) / 2.0**64
    split = np.full(len(digest), TRAIN, np.int8)
    split[u < test + validation] = VALIDATION
    split[u < test] = TEST
    return split


def hash_split(keys: Iterable[bytes | str], validation: float, test: float) -> np.ndarray:
    """The split of each key.

    >>> hash_split(["ann", "bob", "cleo", "ann"], validation=0.25, test=0.25).tolist()
    [0, 0, 2, 0]
    """
    return split_by_digest(digests(keys), validation, test)


def check_fractions(validation: float, test: float) -> None:
    """Both at least 0, and room for training rows."""
    if validation < 0 or test < 0 or validation + test >= 1:
        raise TaskgroveError(
            f"split {{validation: {validation:g}, test: {test:g}}} leaves no rows to train on; the "
            "two fractions must sum to less than 1, such as {validation: 0.15, test: 0.15}"
        )


def named_split(column: pa.ChunkedArray, name: str, source: str) -> np.ndarray:
    """The split that a column names for each row."""
    encoded = column.combine_chunks().dictionary_encode()
    words = encoded.dictionary.to_pylist()
    if encoded.null_count or "" in words:
        raise TaskgroveError(
            f'split column "{name}" of {source} is empty in a row; write train, validation or test '
            "in each"
        )
    for word in words:
        if split_name(word) is None:
            raise TaskgroveError(
                f'split column "{name}" of {source} has the value "{word}"; it must be one of '
                f"{listed(SPLITS)}.{did_you_mean(word, SPLITS)}"
            )
    codes = np.array([SPLITS.index(split_name(word) or "train") for word in words], np.int8)
    return codes[encoded.indices.to_numpy(zero_copy_only=False)]


def carve(
    given: np.ndarray | None, digest: np.ndarray, validation: float, test: float
) -> tuple[np.ndarray, frozenset[int]]:
    """The whole split, and which parts a hash cut from train because the data do not give them."""
    by_hash = split_by_digest(digest, validation, test)
    if given is None:
        return by_hash, frozenset({VALIDATION, TEST})
    cut = frozenset({VALIDATION, TEST} - set(np.unique(given).tolist()))
    split = given.copy()
    for part in cut:
        split[(given == TRAIN) & (by_hash == part)] = part
    return split, cut


def torn_key(digest: np.ndarray, split: np.ndarray) -> tuple[int, int] | None:
    """Two rows with one key and different splits, if any."""
    kept = np.flatnonzero(split >= 0)
    order = kept[np.argsort(digest[kept], kind="stable")]
    same = digest[order[1:]] == digest[order[:-1]]
    torn = np.flatnonzero(same & (split[order[1:]] != split[order[:-1]]))
    return (int(order[torn[0]]), int(order[torn[0] + 1])) if len(torn) else None
