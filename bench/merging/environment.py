"""Builds the peers' environment: mergekit, FusionBench and PEFT, never a dependency of ours.

    python bench/merging/environment.py [FOLDER]        (FOLDER: .venv-peers-merging, 1.8 GB)

The newest of the three live in one environment, with their dependencies as they ask for them.
"""

import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
PEERS = ROOT / ".venv-peers-merging"


def python_of(folder: Path) -> Path:
    """The interpreter of a virtual environment."""
    return folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else PEERS
    lines = (HERE / "peers.txt").read_text().splitlines()
    wanted = [line for line in lines if line and not line.startswith("#")]
    if not python_of(folder).exists():
        venv.create(folder, with_pip=True)
    pip = [str(python_of(folder)), "-m", "pip", "install", "--disable-pip-version-check", "--quiet"]
    pip += ["--constraint", str(ROOT / "constraints.txt")]
    subprocess.run([*pip, *wanted], check=True)


if __name__ == "__main__":
    main()
