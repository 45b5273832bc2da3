"""What does not fit in memory: Arrow tables and arrays kept in the user's cache, memory-mapped.

The folder is $TASKGROVE_CACHE, else $XDG_CACHE_HOME/taskgrove, else ~/.cache/taskgrove. A file's
name is a digest of all that made it, so a changed source makes another file. Files are written
aside and renamed: a reader sees a whole file or none. The folder may be deleted at any time.
"""

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pyarrow as pa

from taskgrove.errors import TaskgroveError

VERSION = "1"  # part of every digest: raise it when what is stored changes


def memory_limit() -> int:
    """Bytes up to which data stay in memory: $TASKGROVE_MEMORY_MB, default 256."""
    given = os.environ.get("TASKGROVE_MEMORY_MB", "256")
    try:
        return int(float(given) * 2**20)
    except ValueError:
        raise TaskgroveError(
            f'TASKGROVE_MEMORY_MB is "{given}"; it must be a number of megabytes, such as 256'
        ) from None


def cache_folder() -> Path:
    """The cache, made if need be."""
    own = os.environ.get("TASKGROVE_CACHE")
    shared = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = Path(own) if own else shared / "taskgrove"
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def identity(paths: Iterable[Path], *more: object) -> str:
    """A digest of files (place, size, time of change) and of whatever else matters."""
    digest = blake2b(VERSION.encode(), digest_size=16)
    for path in paths:
        facts = path.stat()
        digest.update(f"{path.resolve()}\0{facts.st_size}\0{facts.st_mtime_ns}\n".encode())
    digest.update(repr(more).encode())
    return digest.hexdigest()


def kept_table(name: str, batches: Callable[[], Iterator[pa.RecordBatch]]) -> pa.Table:
    """The table `name` of the cache, memory-mapped; streamed there first if it is new."""
    path = cache_folder() / f"{name}.arrow"
    if not path.exists():
        stream = batches()
        first = next(stream, None)
        if first is None:
            return pa.table({})
        with (
            written_aside(path) as aside,
            pa.OSFile(str(aside), "wb") as sink,
            pa.ipc.new_file(sink, first.schema) as writer,
        ):
            writer.write_batch(first)
            for batch in stream:
                writer.write_batch(batch)
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()


def nameless_array(shape: tuple[int, ...], dtype: type) -> np.ndarray:
    """Zeros in a file of the cache that vanishes with the array."""
    with _writing(folder := cache_folder()), tempfile.TemporaryFile(dir=folder) as file:
        return np.memmap(file, dtype, "w+", shape=shape)


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """A name to write to that becomes `path` when all went well and vanishes when not."""
    handle, aside = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    os.close(handle)
    try:
        with _writing(path.parent):
            yield Path(aside)
            os.replace(aside, path)
    finally:
        Path(aside).unlink(missing_ok=True)


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise TaskgroveError(
            f"the cache {folder} cannot be written ({error.strerror or error}); free some space or "
            "set TASKGROVE_CACHE to another folder"
        ) from None
