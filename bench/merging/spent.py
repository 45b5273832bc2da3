"""What a command costs: CPU seconds, wall seconds and peak memory of a process of its own.

Peak memory is the kernel's ru_maxrss; on Linux a child starts with that of the process it was made
by, so this file, and whoever imports it, must stay small: the standard library only.
"""

import os
import resource
import subprocess
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Spent:
    """`cpu`: user and system, all threads; `memory`: MiB; `error`: the last line, if it failed."""

    cpu: float
    wall: float
    memory: float
    error: str = ""


def spent(command: Sequence[str], log: Path, threads: int) -> Spent:
    """Runs it; what it prints goes to `log`."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    env = os.environ | dict.fromkeys(names, str(threads)) | {"HF_HUB_OFFLINE": "1"}
    with log.open("wb") as output:
        start = time.perf_counter()
        child = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=env)
        _, status, usage = os.wait4(child.pid, 0)
        wall = time.perf_counter() - start
    child.returncode = os.waitstatus_to_exitcode(status)
    error = ""
    if child.returncode:
        lines = log.read_text(errors="replace").strip().splitlines() or ["no output"]
        error = f"exit {child.returncode}: {lines[-1]}"
    return Spent(usage.ru_utime + usage.ru_stime, wall, usage.ru_maxrss / 1024, error)


def own_memory() -> float:
    """MiB that this process has held at most: the least that `spent` can report."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def cool(folders: Iterable[Path]) -> None:
    """Drops these files from the system's memory, so that the next reader reads the disk."""
    for folder in folders:
        for path in folder.iterdir():
            handle = os.open(path, os.O_RDONLY)
            os.fsync(handle)  # pages not yet written cannot be dropped
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(handle)
