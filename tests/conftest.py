"""One thread, no network, a cache of the test run's own; small task sets that tests share."""

import os
import sys
from importlib import import_module
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import pytest
from jaxtyping import install_import_hook

HEAVY = "accelerate datasets scipy.stats sklearn.metrics torch.utils.tensorboard transformers"
for name in [*HEAVY.split(), "transformers.modeling_utils", "huggingface_hub"]:
    import_module(name)  # before the hook, which would compile again whatever it sees first
SHAPES = install_import_hook("taskgrove", "checker.checked")  # from here on, users pay nothing


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """Nothing of a test run lands in the user's cache."""
    os.environ["TASKGROVE_CACHE"] = str(tmp_path_factory.mktemp("cache"))


def write_table(folder: Path, rows: int = 400, seed: int = 0, missing: float = 0.5) -> Path:
    """A tasks file over one small table: two classes tasks, one labels task, one number.

    The targets depend on the same hidden directions, so that tasks can help each other; `rare`
    lacks a share of its labels.
    """
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(rows, 4)).round(4)
    hidden = np.tanh(X @ rng.normal(size=(4, 2)))
    side = np.where(hidden[:, 0] > 0, "left", "right")
    rare = np.where(hidden[:, 0] + hidden[:, 1] > 0, "yes", "no").astype(object)
    rare[rng.random(rows) < missing] = ""
    tags = [
        ";".join(t for t, h in zip("pq", row, strict=True) if h > 0) or "none" for row in hidden
    ]
    number = (hidden.sum(1) * 10 + 50 + rng.normal(size=rows)).round(4)
    lines = ["a,b,c,d,side,rare,tags,number"]
    for n in range(rows):
        cells = [*X[n], side[n], rare[n], tags[n], number[n]]
        lines.append(",".join(str(cell) for cell in cells))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "table.csv").write_text("\n".join(lines) + "\n")
    (folder / "tasks.yaml").write_text(
        "data: table.csv\nnumbers: [a, b, c, d]\ntasks:\n"
        "  side: {target: side}\n  rare: {target: rare}\n"
        "  tags: {target: tags, kind: labels}\n  number: {target: number, kind: number}\n"
    )
    return folder / "tasks.yaml"


@pytest.fixture(scope="session")
def small_tasks(tmp_path_factory):
    """The path of a small tasks file."""
    return write_table(tmp_path_factory.mktemp("small"))
