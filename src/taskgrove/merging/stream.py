"""Stream: a plan is carried out tensor by tensor, in blocks; memory does not grow with the models.

The result is written aside, in `.OUT.part`, and renamed at the end. A journal there names the
tensors that are done, so that a merge that was killed goes on where it was, with the same bits
(after a power cut begin anew: remove the folder).

Cost: every input is read `passes` times, the result written once; memory is threads x (K + 1)
blocks. Arithmetic is in fp32, rounded once, to nearest even.
"""

import errno
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from taskgrove.errors import TaskgroveError
from taskgrove.merging.blocks import Range, Reading, Seeing, shaped
from taskgrove.merging.files.dtypes import all_finite, dtype_of, width
from taskgrove.merging.files.journal import Journal
from taskgrove.merging.files.layout import Shard, index
from taskgrove.merging.fit import whole
from taskgrove.merging.place import check_out
from taskgrove.merging.plan import Plan
from taskgrove.merging.static.static import Array, At, Seen
from taskgrove.merging.whole import matrix

Write = Callable[[int, Array], None]  # (the first number's place, numbers in the result's dtype)
Progress = Callable[[str, float], None]  # (tensor, share done)
Digests = list[str]  # of a tensor's raw numbers, base first


def merge(plan: Plan, out: Path, progress: Progress | None = None) -> dict[str, Digests]:
    """Writes the weights aside and renames the folder; {tensor: digest in each model}.

    `finish` of merging/files/card adds the other files before the rename.
    """
    from taskgrove.merging.files.card import finish

    if found := [*plan.problems, *check_out(plan, out)]:
        raise TaskgroveError(" ".join(found))
    part = out.parent / f".{out.name}.part"
    try:
        part.mkdir(parents=True, exist_ok=True)
        digests = _weights(plan, part, progress)
        finish(plan, digests, part, out.name)
        part.rename(out)
    except TaskgroveError:
        shutil.rmtree(part, ignore_errors=True)
        raise
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        shutil.rmtree(part, ignore_errors=True)
        raise TaskgroveError(
            f"the disk of {out} is full: the result needs {plan.written:,} bytes; nothing was kept."
        ) from None
    return digests


def _weights(plan: Plan, part: Path, progress: Progress | None) -> dict[str, Digests]:
    with Journal.open(part / "journal.jsonl", plan.mark) as journal:
        _shards(plan, part, journal, progress)
    if len(plan.shards) > 1:
        total = sum(s.size - len(s.header) for s in plan.shards)
        (part / "model.safetensors.index.json").write_text(index(plan.shards, total), "utf-8")
    journal.path.unlink()
    return journal.done


def _shards(plan: Plan, part: Path, journal: Journal, progress: Progress | None) -> None:
    seen = journal.seen
    if seen is None:
        seen = look_over_model(plan)
        journal.saw(seen)
    done = 0
    for shard in plan.shards:
        with _opened(part / shard.file, shard) as file:
            for name, start in shard.starts.items():
                if name not in journal.done:
                    write = _writer(file.fileno(), start, plan.dtypes[name])
                    journal.finished(name, merge_tensor(plan, name, seen, write))
                done += width(plan.dtypes[name]) * plan.reading.layout.entries[name].size
                if progress is not None:
                    progress(name, done / max(1, plan.written))


def look_over_model(plan: Plan) -> Seen:
    """What the method must see of the whole model first."""
    if plan.static.look is None or not plan.parameters:
        return {}
    first = next(iter(plan.parameters.values()))
    if plan.static.over(first) != "model":
        return {}
    return plan.static.look(Seeing(plan.reading, list(plan.parameters)), first)


def merge_tensor(plan: Plan, name: str, seen: Seen, write: Write) -> Digests:
    """Merges one tensor, or copies it where it is not merged."""
    reading, static = plan.reading, plan.static
    if name not in plan.parameters:
        write(0, whole(reading.layout, name).astype(dtype_of(plan.dtypes[name]), copy=False))
        return []
    parameters, shape = plan.parameters[name], reading.layout.entries[name].shape
    rows = static.takes == "rows"
    function = static.merge
    if static.takes == "matrix":
        beside = reading.beside.values()
        if static.matrix(shape) and all(name in m.entries for ms in beside for m in ms):
            return matrix(plan, name, write)
        function = static.otherwise or static.merge
    elif static.look is not None and static.over(parameters) == "tensor":
        seen = static.look(Seeing(reading, [name], rows), parameters)

    def one(block: Range) -> list[bytes]:
        fresh = reading.fresh(block)
        if reading.base is not None and len(set(fresh.digests)) == 1:
            merged = _again(reading, block)
        else:
            base, deltas = shaped(fresh, shape, rows)
            at = At(name, shape, block.start, seen, fresh.beside)
            merged = function(base, deltas, parameters, at)
        write(block.start, rounded(plan, name, merged.reshape(-1)))
        return fresh.digests

    return digest(reading.each(reading.ranges(name, rows), one))


def rounded(plan: Plan, name: str, merged: Array) -> Array:
    """In the result's dtype; an infinity that merging made is refused."""
    with np.errstate(over="ignore", invalid="ignore"):
        result = merged.astype(dtype_of(plan.dtypes[name]), copy=False)
    if not (plan.recipe.allow_nan or all_finite(result)):
        raise TaskgroveError(
            f'merged tensor "{name}" is not finite as {plan.dtypes[name]}: use a smaller scale, or'
            " a wider --dtype."
        )
    return result


def digest(blocks: Iterator[Sequence[bytes]]) -> Digests:
    """One of each model from those of its blocks, in order."""
    sums: list[Any] = []
    for found in blocks:
        sums = sums or [xxhash.xxh3_128() for _ in found]
        for each, one in zip(sums, found, strict=True):
            each.update(one)
    return [each.hexdigest() for each in sums]


def _again(reading: Reading, block: Range) -> Array:
    """The base's own numbers, where no model changed them."""
    entry = reading.layout.entries[block.name]
    room = memoryview(bytearray((block.stop - block.start) * width(entry.dtype)))
    return reading.layout.read(block.name, block.start, block.stop, room)


def _writer(file: int, start: int, dtype: str) -> Write:
    size = width(dtype)

    def write(first: int, numbers: Array) -> None:
        left, at = np.ascontiguousarray(numbers).view(np.uint8).data, start + first * size
        while left:
            sent = os.pwrite(file, left, at)
            left, at = left[sent:], at + sent

    return write


def _opened(path: Path, shard: Shard) -> Any:
    """The file with its header, at its full size, so that a full disk is met at once."""
    if not path.exists() or path.stat().st_size != shard.size:
        with path.open("wb") as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, shard.size)
            else:
                file.truncate(shard.size)
            file.write(shard.header)
    return path.open("r+b")
