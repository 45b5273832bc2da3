"""Reads every byte of the inputs and writes as many as the output has: what no merge can undercut.

    python bench/merging/cold_copy.py OUT BASE TUNED1 [TUNED2 ...]

The output is the base's bytes. A buffer of 8 MiB is used again and again; nothing is computed.
"""

import os
import sys
from pathlib import Path


def main() -> None:
    out, folders = Path(sys.argv[1]), [Path(p) for p in sys.argv[2:]]
    out.mkdir()
    buffer = memoryview(bytearray(8 * 2**20))
    for n, folder in enumerate(folders):
        for path in sorted(folder.iterdir()):
            to = Path(os.devnull) if n else out / path.name
            with path.open("rb", buffering=0) as source, to.open("wb", buffering=0) as target:
                while got := source.readinto(buffer):
                    if n == 0:
                        target.write(buffer[:got])


if __name__ == "__main__":
    main()
