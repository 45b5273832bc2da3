"""The balancing step beside its floor and its peers, each case in processes of its own.

    python bench/balancing/environment.py       once: the peers' environment
    python bench/balancing/run.py [--only CASE] [--quick] [--json FILE]

FLOPs and time are ratios to the plain summed step of the same process, memory is MiB above the
start (measure.py). A number of the table is the best of all ways tried, line by line: torchjd's and
LibMTL's own (way_torchjd.py, way_libmtl.py), and "by hand", what a user could write with torchjd's
functions. The ways follow the table, failures included.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from cases import CASES
from environment import HERE, PEERS, python_of

Ways = dict[str, dict[str, Any]]
MEASURES = ("flops", "time", "memory")
BARS: dict[str, dict[str, float]] = {
    "own-mlp": {"flops": 1.10, "time": 1.5},
    "own-transformer": {"flops": 1.10, "time": 1.5},
    "one-mlp": {"flops": 6.5, "time": 5},
    "one-transformer": {"flops": 13.7},
    "one-transformer-5": {"flops": 3.9},
    "features": {"flops": 1.06, "time": 1.15},
    "features-transformer": {"flops": 1.06, "time": 1.15},
    "memory": {"memory": 55},
    "nash": {
        **dict.fromkeys(("ms, rows alike", "ms, rows 1e-2..1e2", "ms, rows 1e-6..1e6"), 0.3),
        **dict.fromkeys(("residual, rows 1e-2..1e2", "residual, rows 1e-6..1e6"), 1e-8),
    },
    "upgrad": {"ms": 10},
}


def side(python: str, script: str, case: str, quick: bool) -> tuple[Ways, dict[str, str]]:
    """The ways of one side and its versions; a failed process is a way with an error."""
    command = [python, str(HERE / script), case, *(["--quick"] if quick else [])]
    env = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    if done.returncode:
        return {script: {"error": (done.stderr.strip() or "no output").splitlines()[-1]}}, {}
    found = json.loads(done.stdout.splitlines()[-1])
    return found["ways"], found["versions"]


def best(ways: Ways, measure: str, library: str, by_hand: bool) -> float | None:
    """The smallest number of a library's ways."""
    found = (
        numbers[measure]
        for way, numbers in ways.items()
        if measure in numbers and way.startswith(library) and way.endswith("by hand") == by_hand
    )
    return min(found, default=None)


def shown(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.1e}" if 0 < abs(value) < 1e-3 or value >= 1e5 else f"{value:.4g}"


def apart(ours: Ways, peers: Ways) -> str:
    """How far our shared gradient is from torchjd's, scale apart: both are UPGrad's."""
    mine = next((n["direction"] for n in ours.values() if "direction" in n), None)
    other = next((n["direction"] for n in peers.values() if "direction" in n), None)
    if mine is None or other is None:
        return ""
    pairs = [(a / mine[-1], b / other[-1]) for a, b in zip(mine[:-1], other[:-1], strict=True)]
    size = sum(b * b for _, b in pairs)
    return f"direction {(sum((a - b) ** 2 for a, b in pairs) / size) ** 0.5:.1e} from torchjd's"


def table(case: str, ours: Ways, peers: Ways, quick: bool) -> list[str]:
    """A line a measure: the bar, the best of each column, the verdict on ours at full size."""
    lines = []
    for measure in MEASURES if case in CASES else BARS[case]:
        bar, mine = BARS[case].get(measure), best(ours, measure, "taskgrove", by_hand=False)
        verdict = ""
        if not quick and bar is not None and mine is not None:
            verdict = "met" if mine <= bar else "MISSED"
        numbers = (
            bar,
            best(peers, measure, "torchjd", by_hand=False),
            best(peers, measure, "LibMTL", by_hand=False),
            best(peers, measure, "torchjd", by_hand=True),
            mine,
        )
        cells = "".join(f"{shown(number):>10}" for number in numbers)
        lines.append(f"{case:<21}{measure:<26}{cells}  {verdict}".rstrip())
    return lines


def details(case: str, ours: Ways, peers: Ways) -> list[str]:
    """A line a way, and the plain step in absolute numbers."""
    lines = [f"\n{case}: {apart(ours, peers)}".rstrip(": ")]
    for way, numbers in {**ours, **peers}.items():
        skip = ("direction", "plain_flops", "plain_time", "plain_memory")
        parts = (
            f"{k} {v if k == 'error' else shown(v)}" for k, v in numbers.items() if k not in skip
        )
        lines.append(f"  {way:<42} {', '.join(parts)}")
    plain = next((n for n in [*ours.values(), *peers.values()] if "plain_time" in n), None)
    if plain is not None:
        numbers = (plain["plain_flops"] / 1e6, plain["plain_time"] * 1e3, plain["plain_memory"])
        lines.append(
            "  {:<42} {:.0f} MFLOP, {:.1f} ms, {:.1f} MiB".format("the plain step", *numbers)
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", choices=list(BARS), help="one case")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does it run?")
    parser.add_argument("--json", type=Path, help="where the raw numbers go")
    options = parser.parse_args()
    peer = python_of(PEERS)
    columns = ("bar", "torchjd", "LibMTL", "by hand", "ours")
    print(f"{'case':<21}{'measure':<26}" + "".join(f"{name:>10}" for name in columns))
    after, raw, versions = [], {}, {}
    for case in [options.only] if options.only else BARS:
        ours, _ = side(sys.executable, "ours.py", case, options.quick)
        peers: Ways = {"peers": {"error": "run bench/balancing/environment.py first"}}
        if peer.exists():
            peers, found = side(str(peer), "peer.py", case, options.quick)
            versions |= found
        print(*table(case, ours, peers, options.quick), sep="\n", flush=True)
        after += details(case, ours, peers)
        raw[case] = {"ours": ours, "peers": peers}
    print(*after, sep="\n")
    print("\npeers:", ", ".join(f"{name} {number}" for name, number in versions.items()))
    if options.json:
        options.json.write_text(json.dumps({"versions": versions, "cases": raw}, indent=1))


if __name__ == "__main__":
    main()
