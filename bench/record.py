"""Runs every benchmark of this folder and keeps what it printed, with date, versions and machine.

python bench/record.py              writes results/bench-YYYY-MM-DD.txt
python bench/record.py merging      that folder alone: results/bench-merging-YYYY-MM-DD.txt
python bench/record.py sharing      the same for that folder
"""

import os
import platform
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).parent
GROUPS = {
    "": [HERE / "mixing.py", HERE / "tasks.py", HERE / "balancing" / "run.py"],
    "merging": [
        HERE / "merging" / f"{name}.py" for name in ("run", "learned", "adapters", "rebasin")
    ],
    "sharing": [HERE / "sharing" / f"{name}.py" for name in ("run", "experts")],
}
PACKAGES = ("torch", "transformers", "numpy", "pyarrow", "scikit-learn")


def main() -> None:
    """One file a day; each benchmark prints ratios within one run."""
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    machine = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
    parts = [f"{time.strftime('%Y-%m-%d %H:%M')}; {machine}; {versions}"]
    wanted = sys.argv[1] if len(sys.argv) > 1 else ""
    for path in GROUPS[wanted]:
        command = [sys.executable, str(path)]
        load = os.getloadavg()[0]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        name = path.relative_to(HERE)
        parts.append(f"\n{name} (load before: {load:.1f})\n{done.stdout.rstrip()}")
        print(parts[-1], flush=True)
    folder = HERE.parent / "results"
    folder.mkdir(exist_ok=True)
    name = f"bench-{wanted}-" if wanted else "bench-"
    (folder / f"{name}{time.strftime('%Y-%m-%d')}.txt").write_text("\n".join(parts) + "\n")


if __name__ == "__main__":
    main()
