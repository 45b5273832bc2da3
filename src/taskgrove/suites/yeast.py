"""Suite `yeast`: what each of 2,417 yeast genes does, 14 yes-or-no labels of one table.

A. Elisseeff, J. Weston: A kernel method for multi-labelled classification. NeurIPS 2001. The table
comes inside the package `river` (BSD); it is read from there, never imported, and converted once.

The 103 numbers of a gene (micro-array expression, phylogenetic profile) are the input. The shares
of "yes" run from 1 to 75 per cent, so the metric is average precision of "yes". A hash of a gene's
numbers gives its split.
"""

import hashlib
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from taskgrove.errors import TaskgroveError
from taskgrove.suites.cache import fill

if TYPE_CHECKING:
    import pyarrow as pa

INPUTS = [f"Att{i}" for i in range(1, 104)]
LABELS = [f"Class{i}" for i in range(1, 15)]


def build(folder: Path, progress: Callable[[str], None] | None = None) -> Path:
    """The suite's tasks.yaml in `folder`; the files are made where they are missing."""

    def write(aside: Path) -> None:
        import pyarrow.parquet as pq

        if progress:
            progress("converts the yeast table of the package river")
        pq.write_table(converted(table_of_river()), aside / "yeast.parquet", compression="zstd")
        (aside / "tasks.yaml").write_text(tasks(), encoding="utf8")

    return fill(folder, write)


def table_of_river() -> Path:
    """The table among river's files; find_spec looks for the package without running it."""
    spec = find_spec("river")
    for place in (spec.submodule_search_locations or []) if spec else []:
        table = Path(place) / "datasets" / "yeast.csv.gz"
        if table.exists():
            return table
    found = "a river without datasets/yeast.csv.gz" if spec else "no package river"
    raise TaskgroveError(
        f'the suite "yeast" reads its table from the package river: got {found}, expected '
        'river>=0.22; install it with pip install "taskgrove[yeast]".'
    )


def converted(source: Path) -> "pa.Table":
    """Columns Att1 .. Att103 (float32), Class1 .. Class14 ("no" or "yes") and split."""
    import numpy as np
    import pyarrow as pa
    from pyarrow import csv

    raw = csv.read_csv(source)
    x = np.stack([raw[name].to_numpy() for name in INPUTS], 1).astype("<f4")  # [gene number]
    columns = {name: pa.array(x[:, i]) for i, name in enumerate(INPUTS)}
    for name in LABELS:
        columns[name] = pa.array(["yes" if value else "no" for value in raw[name].to_pylist()])
    columns["split"] = pa.array([split_of(row.tobytes()) for row in x])
    return pa.table(columns)


def split_of(content: bytes) -> str:
    """60 / 15 / 25 per cent: the rarest label has 34 genes, and needs some of them in the test."""
    place = int.from_bytes(hashlib.sha256(b"taskgrove yeast" + content).digest()[:8], "big") / 2**64
    return "train" if place < 0.60 else "validation" if place < 0.75 else "test"


def tasks() -> str:
    """The text of tasks.yaml."""
    lines = [
        "# 14 labels of one table (package river); written by taskgrove.",
        "data: yeast.parquet",
        f"numbers: [{', '.join(INPUTS)}]",
        "split: split",
        "kind: classes",
        "metric: average_precision",
        "backbone: mlp",
        "tasks:",
        *(f"  {name.lower()}: {{target: {name}}}" for name in LABELS),
    ]
    return "\n".join(lines) + "\n"
