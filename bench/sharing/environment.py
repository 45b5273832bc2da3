"""Builds the peer's environment: PEFT, never a dependency of ours.

    python bench/sharing/environment.py [FOLDER]        (FOLDER: .venv-peers-sharing, 1.2 GB)

The same by hand: a virtual environment, then `pip install -r bench/sharing/peers.txt -c
constraints.txt`, so that torch and transformers are those of the project.
"""

import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
PEERS = ROOT / ".venv-peers-sharing"


def python_of(folder: Path) -> Path:
    """The interpreter of a virtual environment."""
    return folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else PEERS
    if not python_of(folder).exists():
        venv.create(folder, with_pip=True)
    pip = [str(python_of(folder)), "-m", "pip", "install", "--disable-pip-version-check", "--quiet"]
    pip += ["--requirement", str(HERE / "peers.txt")]
    subprocess.run([*pip, "--constraint", str(ROOT / "constraints.txt")], check=True)


if __name__ == "__main__":
    main()
