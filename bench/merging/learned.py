"""A layer-wise AdaMerging step beside FusionBench's and beside forward and backward alone.

    python bench/merging/learned.py [--quick] [--repeats N] [--peers FOLDER] [--scratch FOLDER]

See learned_case.py for the case. Processes take turns; seconds are CPU seconds of one thread, the
median of the rounds; the ratio to the floor is taken within a round, in the same environment.
Memory: multiples of P, above what the process held before. Needs 1.4 GB in `scratch`.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

from environment import HERE, PEERS, ROOT, python_of

TIME, MEMORY = 1.10, 7.0  # bars
OURS = [("disk", 8), ("memory", 8), ("disk", 32)]
Found = dict[str, float]


def one(python: Path, script: str, *arguments: str) -> Found:
    """A process's line of JSON; a failure is a result too."""
    command = [str(python), str(HERE / script), *arguments]
    env = os.environ | dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    if done.returncode:
        print(f"{script} {arguments}: {(done.stderr.strip() or 'no output').splitlines()[-1]}")
        return {}
    return json.loads(done.stdout.strip().splitlines()[-1])


def rounds(folder: Path, peers: Path, quick: list[str], repeats: int) -> dict[str, list[Found]]:
    """Each way's numbers, `ratio` among them."""
    mine, theirs = Path(sys.executable), python_of(peers)
    runs: dict[str, list[Found]] = {}
    for _ in range(repeats):
        floors = {
            k: one(mine, "learned_ours.py", "floor", str(folder), str(k), *quick) for k in (8, 32)
        }
        for way, k in OURS:
            found = one(mine, "learned_ours.py", way, str(folder), str(k), *quick)
            runs.setdefault(f"taskgrove {way} K={k}", []).append(against(found, floors[k]))
        runs.setdefault("floor K=8", []).append(against(floors[8], floors[8]))
        runs.setdefault("floor K=32", []).append(against(floors[32], floors[32]))
        if theirs.exists():
            low = one(theirs, "learned_peer.py", "floor", str(folder), "8", *quick)
            found = one(theirs, "learned_peer.py", "fusion_bench", str(folder), "8", *quick)
            runs.setdefault("FusionBench K=8", []).append(against(found, low))
    return runs


def against(found: Found, floor: Found) -> Found:
    if not found or not floor:
        return {}
    return found | {"ratio": found["seconds"] / floor["seconds"]}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="a miniature: does it run?")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--peers", type=Path, default=PEERS)
    parser.add_argument("--scratch", type=Path, default=ROOT / "runs" / "bench-merging")
    options = parser.parse_args()
    quick = ["--quick"] if options.quick else []
    folder = options.scratch / f"learned{'-quick' if quick else ''}"
    one_line = [sys.executable, str(HERE / "learned_ours.py"), "write", str(folder), "32", *quick]
    subprocess.run(one_line, check=True)
    print(f"{'adamerging, a step':<26}{'CPU s':>10}{'x floor':>10}{'P':>10}{'entropy':>12}")
    for way, each in rounds(folder, options.peers, quick, options.repeats).items():
        full = [found for found in each if found]
        if not full:
            print(f"{way:<26} failed")
            continue
        mid = {key: statistics.median(found[key] for found in full) for key in full[0]}
        line = f"{way:<26}{mid['seconds']:>10.3f}{mid['ratio']:>10.3f}{mid['memory']:>10.2f}"
        line += f"{mid['entropy']:>12.6f}" if "entropy" in mid else ""
        if way.startswith("taskgrove disk") and not quick:
            met = mid["ratio"] <= TIME, mid["memory"] <= MEMORY
            line += "  bars 1.10, 7 P: " + " and ".join("met" if m else "MISSED" for m in met)
        print(line, flush=True)
    print(f"load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
