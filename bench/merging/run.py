"""Static merges of a 0.5 B-parameter checkpoint beside mergekit, a plain script and a copy.

    python bench/merging/environment.py         once: the peers' environment
    python bench/merging/run.py [--only CASE] [--quick] [--repeats N] [--json FILE]
                                [--peers FOLDER] [--scratch FOLDER]

Every run is a process of its own, start-up included: CPU seconds, wall seconds, peak memory (MiB,
ru_maxrss: mapped pages of files count). The ways of a case take turns; a number is the median of
its repeats. "cold" ways begin with the inputs dropped from the system's memory, all others with the
inputs in it. A table's mergekit number is the better of its two settings, line by line. Needs 6 GB
in `scratch`, 11 GB for the case `every`: all methods of taskgrove at K=8. Learned merges and LoRA
are measured by learned.py and adapters.py.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from environment import HERE, PEERS, ROOT, python_of
from spent import Spent, cool, own_memory, spent
from ways import CASES, commands, inputs, ours

MEASURES = ("cpu", "wall", "memory")
BARS = {  # at most, as a multiple of a way's number, or MiB
    "linear": [("cpu", "mergekit", 1 / 4), ("wall", "mergekit", 1 / 4)],
    "task_arithmetic": [("cpu", "mergekit", 1 / 4), ("wall", "mergekit", 1 / 4)],
    "ties": [("cpu", "mergekit", 1 / 10)],
}
COLD, MEMORY, MANY = 1.5, 400.0, 512.0
STATISTICS = ("fisher", "regmean")
Runs = dict[str, list[Spent]]


def measure(name: str, peers: Path, scratch: Path, repeats: int) -> tuple[Runs, dict[str, str]]:
    """The ways in turn; in the first round, how their outputs agree with ours."""
    out, kept = scratch / "out", scratch / "ours"
    ways = commands(name, python_of(peers), scratch, out)
    runs: Runs = {way: [] for way in ways}
    agreement: dict[str, str] = {}
    for repeat in range(repeats):
        for way, command in ways.items():
            shutil.rmtree(out, ignore_errors=True)
            (cool if way.startswith("cold") else warm)(inputs(CASES[name], scratch))
            threads = 2 if "-j 2" in way else 1
            runs[way].append(found := spent(command, scratch / "log.txt", threads))
            if found.error or repeat or CASES[name].random or way.startswith("cold"):
                continue
            if way == "taskgrove":
                out.rename(kept)
            elif kept.exists():
                agreement[way] = agree(kept, out)
        shutil.rmtree(kept, ignore_errors=True)
    shutil.rmtree(out, ignore_errors=True)
    return runs, agreement


def warm(folders: list[Path]) -> None:
    """Reads the inputs, so that the system's memory has them."""
    buffer = bytearray(2**23)
    for path in (path for folder in folders for path in folder.iterdir()):
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def agree(a: Path, b: Path) -> str:
    command = [sys.executable, str(HERE / "agree.py"), str(a), str(b)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        return done.stderr.strip().splitlines()[-1]
    found = json.loads(done.stdout)
    return f"equal {found['equal']:.2%}, at most one step {found['within_1']:.4%}"


def middle(runs: Runs, way: str, measure: str) -> float | None:
    """The median of the best of the ways that begin with this name."""
    found = [
        statistics.median(getattr(run, measure) for run in each)
        for name, each in runs.items()
        if name.startswith(way) and each and not any(run.error for run in each)
    ]
    return min(found, default=None)


def verdicts(name: str, runs: Runs) -> list[str]:
    """Ours against each bar."""
    lines = []
    wanted = [*BARS.get(name, []), ("cpu", "cold copy", COLD), ("wall", "cold copy", COLD)]
    for measure, way, most in wanted:
        mine = middle(runs, "cold taskgrove" if way.startswith("cold") else "taskgrove", measure)
        other = middle(runs, way, measure)
        if mine is None or other is None:
            continue
        verdict = "met" if mine <= most * other else "MISSED"
        lines.append(f"{name:<17}{measure:<8}{mine / other:>8.3f} of {way:<10} bar {most:<6.3g}")
        lines[-1] += f" {verdict}"
    memory = middle(runs, "taskgrove", "memory")
    if memory is not None:
        verdict = "met" if memory <= MEMORY else "MISSED"
        lines.append(
            f"{name:<17}{'memory':<8}{memory:>8.0f} MiB           bar {MEMORY:<6g} {verdict}"
        )
    return lines


def table(name: str, runs: Runs, agreement: dict[str, str]) -> list[str]:
    """A line a way."""
    lines = []
    for way, each in runs.items():
        numbers = "".join(
            f"{statistics.median(getattr(run, m) for run in each):>10.2f}" for m in MEASURES
        )
        failed = next((run.error for run in each if run.error), "")
        note = failed or agreement.get(way, "")
        lines.append(f"{name:<17}{way:<30}{numbers}  {note}".rstrip())
    return lines


def every(scratch: Path, size: str, models: int = 8) -> Runs:
    """Each static method of taskgrove once, over eight models; peak memory is what counts."""
    checkpoints(scratch, models, size)
    listing = "from taskgrove.merging.static.table import STATIC; print(*STATIC)"
    names = subprocess.check_output([sys.executable, "-c", listing], text=True).split()
    runs: Runs = {}
    folders = [scratch / "base", *(scratch / f"tuned{k + 1}" for k in range(models))]
    for name in names:
        out = scratch / "out"
        shutil.rmtree(out, ignore_errors=True)
        if name in STATISTICS:
            print(f"{'every':<17}{name:<30}  needs statistics of data: not measured here")
            continue
        few = {"slerp": folders[:3], "wise_ft": folders[:2]}.get(name, folders)
        runs[name] = [spent(ours([name], few, out, True), scratch / "log.txt", 1)]
        print(*table("every", {name: runs[name]}, {}), sep="\n", flush=True)
    shutil.rmtree(scratch / "out", ignore_errors=True)
    for folder in folders[4:]:
        shutil.rmtree(folder)
    most = max((run.memory for each in runs.values() for run in each), default=0.0)
    failed = [name for name, each in runs.items() if any(run.error for run in each)]
    verdict = "met" if most <= MANY and not failed else "MISSED"
    print(f"{'every':<17}{'memory':<8}{most:>8.0f} MiB, the most   bar {MANY:<6g} {verdict}")
    print(*(f"{'every':<17}{name} failed" for name in failed), sep="\n")
    return runs


def checkpoints(scratch: Path, tuned: int, size: str) -> None:
    """Written by a process of its own: this one must stay small."""
    command = [sys.executable, str(HERE / "checkpoints.py"), str(scratch), str(tuned)]
    subprocess.run([*command, "--size", size], check=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", choices=[*CASES, "every"], help="one case")
    parser.add_argument("--quick", action="store_true", help="a miniature: does it run?")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="where the raw numbers go")
    parser.add_argument("--peers", type=Path, default=PEERS)
    parser.add_argument("--scratch", type=Path, default=ROOT / "runs" / "bench-merging")
    options = parser.parse_args()
    size = "quick" if options.quick else "half"
    scratch = options.scratch / size
    checkpoints(scratch, 3, size)
    columns = ("CPU s", "wall s", "MiB")
    print(f"{'case':<17}{'way':<30}" + "".join(f"{name:>10}" for name in columns))
    raw: dict[str, Runs] = {}
    bars: list[str] = []
    for name in [options.only] if options.only else [*CASES, "every"]:
        load = os.getloadavg()[0]
        if name == "every":
            raw[name] = every(scratch, size)
            continue
        raw[name], agreement = measure(name, options.peers, scratch, options.repeats)
        print(*table(name, raw[name], agreement), sep="\n", flush=True)
        print(f"{'':<17}load {load:.1f} to {os.getloadavg()[0]:.1f}", flush=True)
        bars += [] if options.quick else verdicts(name, raw[name])
    print(*bars, sep="\n")
    print(f"least memory that can be seen: {own_memory():.0f} MiB")
    if options.json:
        found = {
            case: {w: [asdict(r) for r in each] for w, each in runs.items()}
            for case, runs in raw.items()
        }
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
