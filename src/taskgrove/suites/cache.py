"""Where suites that do not ship are kept, and how they get there: written aside, then renamed."""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from taskgrove.errors import TaskgroveError


def folder_of(name: str) -> Path:
    """The folder of one suite in the user's cache."""
    from taskgrove.tasks.cache import cache_folder  # brings pyarrow, which --help does without

    return cache_folder() / "suites" / name


def fill(folder: Path, write: Callable[[Path], None]) -> Path:
    """The tasks.yaml of `folder`; where it is missing, `write` makes the files in a new folder.

    The new folder then takes the name in one step: a broken run leaves no half suite behind, and
    of two runs at once the first one stays.
    """
    tasks = folder / "tasks.yaml"
    if tasks.exists():
        return tasks
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    except OSError as error:
        raise TaskgroveError(
            f"the suite cannot be kept in {folder} ({error.strerror}); expected a folder that can "
            "be written, set TASKGROVE_CACHE to one."
        ) from error
    try:
        write(aside)
        aside.chmod(0o755)
        rename(aside, folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return tasks


def rename(aside: Path, folder: Path) -> None:
    try:
        aside.rename(folder)
    except OSError:  # the folder is there and not empty
        if not (folder / "tasks.yaml").exists():
            raise
