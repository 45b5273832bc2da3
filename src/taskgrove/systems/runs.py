"""runs: the parts of a claim, one an arm and seed, side by side; what is kept goes on after a kill.

Each part's result is a JSON file of its own below `OUT/SLUG.work`, written aside and renamed, with
a fingerprint of the system's file and of the folders it is made of: what other code has found is
found again. When the claim is written the work folder goes.
"""

import multiprocessing
import os
import shutil
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from datetime import UTC, datetime
from hashlib import blake2b
from inspect import getfile
from multiprocessing.connection import wait as wait_for
from pathlib import Path
from platform import machine, python_version

import numpy
import torch

import taskgrove
from taskgrove.errors import TaskgroveError
from taskgrove.measuring.claim import Claim
from taskgrove.systems import SYSTEMS, System
from taskgrove.systems.system import Found, Progress
from taskgrove.training import checkpoint

Part = tuple[str, int]  # arm and seed
Each = Iterator[tuple[Part, Found]]


def reproduce(
    system: System,
    out: Path,
    seeds: Sequence[int],
    *,
    quick: bool = False,
    jobs: int = 1,
    command: str = "",
    progress: Progress | None = None,
) -> Claim:
    """Runs what is not kept yet, then writes `OUT/SLUG.json` and the plot `OUT/SLUG.png`.

    Quick claims are called `SLUG-quick`, so that they never take a real one's place.
    """
    from taskgrove.measuring.claim_plot import plot

    name = system.slug + ("-quick" if quick else "")
    work, mark = out / f"{name}.work", _fingerprint(system, quick)
    try:
        work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TaskgroveError(f"--out {out} cannot be written: {error.strerror}") from None
    parts = [(arm, seed) for seed in seeds for arm in system.arms]
    found = {part: kept for part in parts if (kept := _kept(_file(work, part), mark)) is not None}
    left = [part for part in parts if part not in found]
    for part, result in _each(system, left, quick, jobs):
        checkpoint.write_json(_file(work, part), {"mark": mark, "found": result})
        found[part] = result
        if progress is not None:
            progress(*part, len(found) / len(parts))
    by_arm = {arm: [found[arm, seed] for seed in seeds] for arm in system.arms}
    claim = system.conclude(by_arm, seeds)
    facts = {"format": 1, "created": datetime.now(UTC).isoformat(timespec="seconds")}
    facts |= {"versions": _versions(), "machine": f"{os.cpu_count()} cores, {machine()}"}
    facts |= {"quick": quick, "command": command, "code": mark}
    plot(claim, out / f"{name}.png")
    checkpoint.write_json(out / f"{name}.json", {**facts, **claim.to_json()})
    shutil.rmtree(work)
    return claim


def _each(system: System, parts: Sequence[Part], quick: bool, jobs: int) -> Each:
    """Each part with its result, as they come."""
    if jobs == 1:
        for part in parts:
            yield part, system.run(*part, quick)
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(jobs, context, initializer=_begin)
    running: dict[Future[Found], Part] = {
        pool.submit(_run, system.slug, *part, quick): part for part in parts
    }
    try:
        while running:
            for ready in wait(running, return_when=FIRST_COMPLETED).done:
                yield running.pop(ready), ready.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _run(slug: str, arm: str, seed: int, quick: bool) -> Found:
    return SYSTEMS[slug].run(arm, seed, quick)


def _begin() -> None:
    """A process of the pool: one thread, and an end when its parent's comes."""
    torch.set_num_threads(1)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    wait_for([sentinel])
    os._exit(1)


def _file(work: Path, part: Part) -> Path:
    return work / f"{part[0]}-seed-{part[1]}.json"


def _kept(path: Path, mark: str) -> Found | None:
    """A part's result, unless it is not there, not whole, or other code's."""
    if not path.exists():
        return None
    try:
        kept = checkpoint.read_json(path)
    except TaskgroveError:
        return None
    return kept["found"] if kept.get("mark") == mark else None


def _fingerprint(system: System, quick: bool) -> str:
    """Of all code that the results may depend on."""
    root = Path(taskgrove.__file__).parent
    files = [Path(getfile(system.run)), *(root / "systems").glob("*/*.py")]
    folders = ("suites", *system.folders)
    files += [path for folder in folders for path in (root / folder).rglob("*.py")]
    mark = blake2b(f"{quick} {torch.__version__}".encode(), digest_size=8)
    for path in sorted(files):
        mark.update(path.read_bytes())
    return mark.hexdigest()


def _versions() -> dict[str, str]:
    return {
        "taskgrove": taskgrove.__version__,
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "python": python_version(),
    }
