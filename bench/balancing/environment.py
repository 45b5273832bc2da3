"""Builds the peers' environment, `.venv-peers`: torchjd and LibMTL, never a dependency of ours.

    python bench/balancing/environment.py

LibMTL goes in without its dependencies: it asks for torchvision, of which it uses one import that
torchvision has since removed (way_libmtl.py says what stands in for it).
"""

import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
PEERS = ROOT / ".venv-peers"


def python_of(folder: Path) -> Path:
    """The interpreter of a virtual environment."""
    return folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")


def main() -> None:
    lines = (HERE / "peers.txt").read_text().splitlines()
    wanted = [line for line in lines if line and not line.startswith("#")]
    bare = [line for line in wanted if line.startswith("LibMTL")]
    if not python_of(PEERS).exists():
        venv.create(PEERS, with_pip=True)
    pip = [str(python_of(PEERS)), "-m", "pip", "install", "--disable-pip-version-check", "--quiet"]
    pip += ["--constraint", str(ROOT / "constraints.txt")]
    subprocess.run([*pip, *(line for line in wanted if line not in bare)], check=True)
    subprocess.run([*pip, "--no-deps", *bare], check=True)


if __name__ == "__main__":
    main()
