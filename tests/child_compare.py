"""A process of its own that kills comparisons in the middle:

    child_compare.py RUN WORDS...      `taskgrove WORDS --out RUN`, killed twice

First the parent of two jobs is killed, and its children must notice; then a whole process group.
Comparisons are forked after the imports, which cost seconds; nothing is computed before the fork.
"""

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import taskgrove.methods.compare  # noqa: F401  (what a fork would import)
from taskgrove.cli import main


def forked(words: list[str]) -> int:
    """`taskgrove words` in a session of its own."""
    child = os.fork()
    if child == 0:
        os.setsid()
        sys.argv = ["taskgrove", *words]
        try:
            main()
        finally:
            os._exit(1)
    return child


def living(session: int) -> list[int]:
    """The processes of a session that are not zombies."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            state, _, _, its = (place / "stat").read_text().rsplit(")", 1)[1].split()[:4]
        except OSError:
            continue
        if int(its) == session and state != "Z":
            found.append(int(place.name))
    return found


def until(what: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not what():
        if time.monotonic() > end:
            raise SystemExit("it did not happen in time")
        time.sleep(0.01)


def ended(child: int) -> bool:
    return os.waitpid(child, os.WNOHANG) != (0, 0)


def kill_twice(run: Path, words: list[str]) -> None:
    words = [*words, "--out", str(run)]
    for jobs, sign in ((2, "work/seed-*/start/fit"), (1, "work/seed-0/single/1")):
        child = forked([*words, "--jobs", str(jobs)])
        until(lambda sign=sign, jobs=jobs: len(list(run.glob(sign))) >= jobs)
        count = len(living(child))
        if ended(child) or (run / "results.json").exists():
            raise SystemExit("it ended before its kill")
        (os.kill if jobs > 1 else os.killpg)(child, signal.SIGKILL)
        os.waitpid(child, 0)
        until(lambda child=child: not living(child), 10.0)
        print(f"{count} processes went away")


if __name__ == "__main__":
    kill_twice(Path(sys.argv[1]), sys.argv[2:])
