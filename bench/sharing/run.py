"""Mixed batches of adapters beside PEFT: forward, training, AdamW, adding and switching tasks.

    python bench/sharing/environment.py         once: the peer's environment
    python bench/sharing/run.py [--only WORD] [--dims 256 768] [--repeats N] [--json FILE]
                                [--peers FOLDER]

Both sides are processes with the same base weights, adapters and batches (encoders.py; ours.py;
peer.py, PEFT) that answer in turn; first their outputs must agree. A number is CPU time of one
thread, the least of all calls; busy neighbours can only raise it, so ratios are of least numbers.
On both sides the C library keeps freed memory: else a forward at dim 256 costs 12 ms or not for
pages that it gave back, as the heap happens to lie. FLOPs are those of torch's counter (matrix
products) as a share of the base's, or of PEFT's step.
Expert layers are measured by experts.py.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from environment import HERE, PEERS, python_of

AGREE = 1e-4  # the greatest difference between the sides' outputs
PEERS_BEST = ("", " foreach", " fused")  # torch's ways; PEFT's is the best


@dataclass(frozen=True)
class Bar:
    """Ours is at most `most` times the other side's way, or `most` milliseconds."""

    ours: str
    other: str  # "peft WAY", "base WAY" or ""
    most: float | None
    dims: tuple[int, ...] = (256, 768)


def bars() -> list[Bar]:
    """Those of the plan, and lines without a bar."""
    found = []
    for seq, of_peft, of_base in ((16, (0.95, 0.95), 1.10), (1, (1.00, 1.15), None)):
        for n in ("1", "16", "64", "16 uneven", "64 uneven"):
            way = f"forward seq {seq} N={n}"
            most = None if n == "1" else of_peft[n.startswith("64")]
            found.append(Bar(way, f"peft forward seq {seq} one", most))
            found.append(Bar(way, f"base forward seq {seq} base", of_base))
            found.append(Bar(way, f"peft {way}", None))
    for n in ("1", "16", "64", "16 uneven", "64 uneven"):
        most = None if n == "1" else 1.0
        found.append(Bar(f"train N={n}", "peft train one", most))
        found.append(Bar(f"train+AdamW N={n}", "peft train+AdamW one", None))
    return [
        *found,
        Bar("AdamW 64 adapters", "", 60.0, (256,)),
        Bar("AdamW 64 adapters", "", None, (768,)),
        Bar("AdamW 16 of 64 adapters", "", None),
        Bar("add a task", "", 1.0),
        Bar("set the task", "", None),
    ]


class Side:
    """A process that answers by name: seconds, or FLOPs."""

    def __init__(self, python: str, script: str, dim: int, folder: Path) -> None:
        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        env = os.environ | dict.fromkeys(names, "1") | {"HF_HUB_OFFLINE": "1"}
        env |= dict.fromkeys(("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"), str(2**32 - 1))
        self.child = subprocess.Popen(
            [python, "-W", "ignore", str(HERE / script), str(dim), str(folder)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env,
        )  # fmt: skip
        self.facts = self._read()

    def ask(self, question: str) -> float:
        print(question, file=self.child.stdin, flush=True)
        return self._read()

    def close(self) -> None:
        self.child.communicate()

    def _read(self) -> Any:
        line = self.child.stdout.readline()
        if not line:
            sys.exit(f"{Path(self.child.args[3]).name} ended with {self.child.wait()}")
        return json.loads(line)


Times = dict[tuple[str, str], float]  # (side, way) -> seconds


def measure(sides: dict[str, Side], only: str, repeats: int) -> Times:
    """The least of `repeats` answers; the sides take turns at each way."""
    best: Times = {}
    ways = dict.fromkeys(way for side in sides.values() for way in side.facts["ways"])
    groups: dict[str, list[str]] = {}
    for way in ways:  # what a ratio is made of is measured close together
        kind = way.split(" N=")[0].removesuffix(" base").removesuffix(" one")
        groups.setdefault(kind, []).append(way)
    for group in (each for name, each in groups.items() if only in name):
        for _ in range(repeats):
            for way in group:
                for name, side in sides.items():
                    if way in side.facts["ways"]:
                        found = side.ask(way)
                        best[name, way] = min(found, best.get((name, way), found))
    return best


def flops(sides: dict[str, Side], times: Times) -> Times:
    """(side, way) -> FLOPs, of forwards and training steps."""
    wanted = [key for key in times if key[1].startswith(("forward", "train N", "train one"))]
    return {(name, way): sides[name].ask(f"flops {way}") for name, way in wanted}


def compared(bar: Bar, times: Times) -> tuple[float, str, tuple[str, str] | None]:
    """The number of a line, what it is, and what it refers to."""
    mine, (side, _, way) = times["ours", bar.ours], bar.other.partition(" ")
    if not side:  # torch's default, foreach or fused AdamW over PEFT's tensors
        peers = [times.get(("peft", bar.ours + kind)) for kind in PEERS_BEST]
        best = min((found for found in peers if found), default=None)
        return mine * 1e3, "ms" if best is None else f"ms (PEFT's {best * 1e3:.3g})", None
    if side == "base":  # the same module on both sides
        return mine / min(times["ours", way], times["peft", way]), "of the base", ("ours", way)
    kind = "one" if way.endswith(" one") else "mixed"
    return mine / times["peft", way], f"of PEFT's {kind}", ("peft", way)


def lines(dim: int, times: Times, counted: Times) -> list[str]:
    """A line a bar."""
    found = []
    for bar in bars():
        if ("ours", bar.ours) not in times or dim not in bar.dims:
            continue
        value, what, other = compared(bar, times)
        limit, verdict, share = "", "", ""
        if bar.most is not None:
            limit, verdict = f"bar {bar.most:g}", "met" if value <= bar.most else "MISSED"
        if other in counted and ("ours", bar.ours) in counted:
            share = f"{counted['ours', bar.ours] / counted[other]:.3f}"
        mine = times["ours", bar.ours] * 1e3
        found.append(
            f"{dim:<5}{bar.ours:<28}{mine:>10.3f} ms{value:>9.3f} {what:<22}{limit:<10}"
            f"{verdict:<8}{share}".rstrip()
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default="", help="ways whose name holds this")
    parser.add_argument("--dims", type=int, nargs="+", default=[256, 768])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="where the raw numbers go")
    parser.add_argument("--peers", type=Path, default=PEERS)
    options = parser.parse_args()
    raw = {}
    for dim in options.dims:
        with tempfile.TemporaryDirectory() as scratch:
            ours = Side(sys.executable, "ours.py", dim, Path(scratch))
            peer = Side(str(python_of(options.peers)), "peer.py", dim, Path(scratch))
        apart = peer.facts["difference"]
        versions = ", ".join(f"{n} {v}" for n, v in peer.facts["versions"].items())
        tensors = f"{ours.facts['tensors']} tensors, PEFT's {peer.facts['tensors']}"
        print(
            f"dim {dim}: outputs differ from PEFT's by {apart:.1e} at most; {tensors}; {versions}"
        )
        first = tuple(side.facts["first"] * 1e3 for side in (ours, peer))
        print("first task added to 64: {:.1f} ms, PEFT's {:.0f} ms".format(*first))
        if apart > AGREE:
            sys.exit("the sides do not compute the same: nothing to compare")
        sides = {"ours": ours, "peft": peer}
        times = measure(sides, options.only, options.repeats)
        print(f"{'dim':<5}{'case':<28}{'ours':>13}{'ratio':>9} {'':<22}{'':<10}{'':<8}FLOPs")
        print(*lines(dim, times, counted := flops(sides, times)), sep="\n", flush=True)
        raw[dim] = {f"{name} {way}": value for (name, way), value in times.items()}
        raw[dim] |= {f"FLOPs of {name} {way}": value for (name, way), value in counted.items()}
        for side in sides.values():
            side.close()
    print(f"load {os.getloadavg()[0]:.1f}")
    if options.json:
        options.json.write_text(json.dumps(raw, indent=1))


if __name__ == "__main__":
    main()
