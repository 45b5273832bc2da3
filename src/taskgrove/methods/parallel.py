"""parallel: seeds side by side, each in a process of its own.

A process is started afresh and reads the tasks file itself, so nothing but the settings is handed
over and data on disk is shared by the system. A child ends when its parent does, however that
ended.
"""

import multiprocessing
import os
import threading
import time
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from taskgrove.errors import TaskgroveError
from taskgrove.methods.seed import Tell, run_seed
from taskgrove.methods.settings import Settings
from taskgrove.tasks.schema import TasksFile
from taskgrove.tasks.task_set import TaskSet, load_tasks
from taskgrove.training.processes import threads

BETWEEN = 0.1  # seconds between two messages of a seed on the same thing


def run_seeds(
    task_set: TaskSet, out: Path, settings: Settings, tell: Tell | None, jobs: int
) -> None:
    """Runs every seed, at most `jobs` at a time; the first failure ends all and is raised."""
    if task_set.file is None:
        raise TaskgroveError("seeds side by side need tasks that were read from a file: use jobs=1")
    context = multiprocessing.get_context("spawn")
    left, running = list(settings.seeds), dict[Any, BaseProcess]()
    try:
        while left or running:
            while left and len(running) < jobs:
                ours, theirs = context.Pipe(duplex=False)
                arguments = (theirs, task_set.file, out, left.pop(0), settings)
                child = context.Process(target=_child, args=arguments, daemon=True)
                child.start()
                theirs.close()
                running[ours] = child
            for ready in wait(list(running)):
                if not _heard(ready, tell):
                    child = running.pop(ready)
                    child.join()
                    if child.exitcode:
                        raise RuntimeError(f"a seed's process ended with {child.exitcode}")
    finally:
        for child in running.values():
            child.kill()


def _heard(pipe: Any, tell: Tell | None) -> bool:
    """Passes one message on; False at the end of the pipe. Raises what the child refused."""
    try:
        message = pipe.recv()
    except EOFError:
        return False
    if isinstance(message, str):
        raise TaskgroveError(message)
    if tell is not None:
        tell(*message)
    return True


def _child(pipe: Connection, file: TasksFile, out: Path, seed: int, settings: Settings) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()

    last = {"what": "", "at": 0.0}

    def tell(*message: Any) -> None:
        what, now = f"{message[1]} {message[2]}", time.monotonic()
        if what != last["what"] or now - last["at"] > BETWEEN:
            pipe.send(message)
            last.update(what=what, at=now)

    try:
        with threads(settings.threads):
            run_seed(load_tasks(file), out, seed, settings, tell)
    except TaskgroveError as error:
        pipe.send(str(error))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
