"""Runs every benchmark of this folder and keeps what it printed, with date, versions and machine.

python bench/record.py          writes results/bench-YYYY-MM-DD.txt
"""

import os
import platform
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).parent
PACKAGES = ("torch", "transformers", "numpy", "pyarrow", "scikit-learn")


def main() -> None:
    """One file a day; each benchmark prints ratios within one run."""
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    machine = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
    parts = [f"{time.strftime('%Y-%m-%d %H:%M')}; {machine}; {versions}"]
    for path in sorted([*HERE.glob("*.py"), *HERE.glob("*/run.py")]):
        if path.name == Path(__file__).name:
            continue
        command = [sys.executable, str(path)]
        load = os.getloadavg()[0]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        name = path.relative_to(HERE)
        parts.append(f"\n{name} (load before: {load:.1f})\n{done.stdout.rstrip()}")
        print(parts[-1], flush=True)
    folder = HERE.parent / "results"
    folder.mkdir(exist_ok=True)
    (folder / f"bench-{time.strftime('%Y-%m-%d')}.txt").write_text("\n".join(parts) + "\n")


if __name__ == "__main__":
    main()
