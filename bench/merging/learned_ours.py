"""taskgrove's layer-wise AdaMerging on the case; prints a line of JSON.

    python bench/merging/learned_ours.py disk|memory|floor FOLDER K [--quick]

{"seconds": a step, "memory": multiples of P, "entropy": of the last step, mean over tasks}
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import init_empty_weights
from learned_case import Memory, batch, between, build, floor, head, load, write
from torch import Tensor
from torch.func import functional_call

from taskgrove.merging.learned.adamerging import AdaMerged, adamerging
from taskgrove.merging.learned.disk_vectors import DiskVectors
from taskgrove.merging.learned.task_vector import deltas
from taskgrove.merging.learned.vectors import MemoryVectors, Vectors
from taskgrove.merging.open_model import open_model

STEPS = 4


def vectors(way: str, places: list[Path], size: str) -> Vectors:
    if way == "disk":
        base = open_model(places[0], None)
        return DiskVectors(base, [open_model(place, base) for place in places[1:]])
    states = [load(place, size).state_dict() for place in places]
    return MemoryVectors(states[0], deltas(states[0], states[1:]))


def merged(way: str, places: list[Path], size: str, stamp: Callable[[], None]) -> AdaMerged:
    tasks = [str(k) for k in range(len(places) - 1)]
    heads = {task: head(task, size) for task in tasks}
    with init_empty_weights(include_buffers=False):
        model = build(size).train()

    def forward(weights: dict[str, Tensor], task: str, ids: Tensor) -> Tensor:
        states = functional_call(model, weights, kwargs={"input_ids": ids}).last_hidden_state
        return states[:, 0] @ heads[task].T

    inputs = {task: (lambda n, task=task: batch(task, n, size)) for task in tasks}
    return adamerging(
        forward,
        vectors(way, places, size),
        inputs,
        dict.fromkeys(tasks, "classes"),
        steps=STEPS,
        learning_rate=1e-3,
        progress=lambda _: stamp(),
    )


def main() -> None:
    way, folder, models = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    size = "quick" if "--quick" in sys.argv else "full"
    torch.set_num_threads(1)
    places = [folder / "base", *(folder / f"tuned{k + 1}" for k in range(models))]
    if way == "write":
        write(folder, models, size)
        return
    memory = Memory(size)
    found: dict[str, float] = {}
    if way == "floor":
        found["seconds"] = floor(places[0], models, size)
    else:
        results: list[AdaMerged] = []
        found["seconds"] = between(lambda s: results.append(merged(way, places, size, s)))
        found["entropy"] = float(results[0].entropy[-1].mean())
    found["memory"] = memory.multiple()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
