"""Merging three LoRA adapters beside PEFT: cost, and how far the result is from the exact one.

    python bench/merging/adapters.py [--quick] [--repeats N] [--peers FOLDER] [--scratch FOLDER]

Exact: base + 0.3 sum_k scale_k B_k A_k in fp64, rounded once to bfloat16. `error` is the size of a
way's difference from it as a share of the change's own size, over the tensors that are adapted;
rounding to bfloat16 alone makes 0 for the exact one. TIES is another merge and has no exact one
here. PEFT's linear sums A and B apart, so it is no sum of the products; its cat is.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

from environment import HERE, PEERS, ROOT, python_of
from run import checkpoints
from spent import Spent, spent
from ways import ours

WAYS = ("linear", "svd", "cat", "ties")


def commands(peers: Path, base: Path, adapters: list[Path], out: Path) -> dict[str, list[str]]:
    scale = ("task_arithmetic", "--scale", "0.3")
    ways = {"taskgrove": ours(scale, [base, *adapters], out, True)}
    script = [str(python_of(peers)), str(HERE / "adapters_peer.py")]
    for way in WAYS:
        ways[f"PEFT {way}"] = [*script, way, str(base), str(out), *map(str, adapters)]
    return ways


def error(base: Path, out: Path, adapters: list[Path]) -> str:
    command = [sys.executable, str(HERE / "adapters_error.py"), *map(str, [base, out, *adapters])]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        return done.stderr.strip().splitlines()[-1]
    return f"{json.loads(done.stdout)['error']:.2e}"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="a miniature: does it run?")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--peers", type=Path, default=PEERS)
    parser.add_argument("--scratch", type=Path, default=ROOT / "runs" / "bench-merging")
    options = parser.parse_args()
    size = "quick" if options.quick else "half"
    scratch = options.scratch / size
    base, log, out = scratch / "base", scratch / "log.txt", scratch / "out"
    adapters = [scratch / "adapters" / f"adapter{k + 1}" for k in range(3)]
    checkpoints(scratch, 0, size)
    if not adapters[-1].exists():
        script = [str(python_of(options.peers)), str(HERE / "adapters_peer.py"), "make"]
        made = spent([*script, str(base), str(scratch / "adapters")], log, 1)
        if made.error:
            sys.exit(f"the adapters could not be made: {made.error}")
    runs: dict[str, list[Spent]] = {}
    errors: dict[str, str] = {}
    for repeat in range(options.repeats):
        for way, command in commands(options.peers, base, adapters, out).items():
            shutil.rmtree(out, ignore_errors=True)
            runs.setdefault(way, []).append(found := spent(command, log, 1))
            if not repeat:
                errors[way] = found.error or ("-" if "ties" in way else error(base, out, adapters))
    shutil.rmtree(out, ignore_errors=True)
    print(f"{'three LoRA adapters':<26}{'CPU s':>10}{'wall s':>10}{'MiB':>10}  error")
    for way, each in runs.items():
        numbers = (
            statistics.median(getattr(run, m) for run in each) for m in ("cpu", "wall", "memory")
        )
        print(f"{way:<26}" + "".join(f"{n:>10.2f}" for n in numbers) + f"  {errors[way]}")
    print(f"load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
