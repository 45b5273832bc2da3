"""FusionBench's layer-wise AdaMerging on the case, in the peers' environment; a line of JSON.

    .venv-peers-merging/bin/python bench/merging/learned_peer.py WAY FOLDER K [--quick]

WAY: fusion_bench, by its own algorithm class and loop, to which a user has to give the two methods
that its CLIP subclass gives; or floor.
"""

# pyright: reportMissingImports=false

import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from fusion_bench.method.adamerging.layer_wise_adamerging import LayerWiseAdaMergingAlgorithm
from fusion_bench.modelpool import BaseModelPool
from learned_case import Memory, batch, between, floor, head, load
from lightning.fabric import Fabric
from lightning.fabric.loggers import TensorBoardLogger
from omegaconf import DictConfig
from torch import Tensor

STEPS = 4
CONFIG = {  # as in its config/method/adamerging
    "weights": None,
    "init_values": 0.3,
    "clamp_weights": True,
    "tie_weights": True,
    "strict": False,
    "optimizer": "adam",
    "lr": 1e-3,
    "max_steps": STEPS,
}


class Pool(BaseModelPool):
    """Models are read when they are asked for."""

    def __init__(self, places: list[Path], size: str) -> None:
        names = ["_pretrained_", *(str(k) for k in range(len(places) - 1))]
        super().__init__({name: {"place": str(p)} for name, p in zip(names, places, strict=True)})
        self.size = size

    def load_model(self, name: str, *_: object, **__: object) -> torch.nn.Module:
        return load(Path(self._models[name]["place"]), self.size)


class Layerwise(LayerWiseAdaMergingAlgorithm):
    """Batches and heads of the case."""

    def __init__(self, models: int, size: str, stamp: Callable[[], None]) -> None:
        super().__init__(DictConfig(CONFIG))
        self.fabric = Fabric(
            accelerator="cpu", devices=1, loggers=TensorBoardLogger(tempfile.mkdtemp())
        )
        self.size, self.stamp = size, stamp
        self.seen = dict.fromkeys((str(k) for k in range(models)), 0)
        self.heads = {task: head(task, size) for task in self.seen}
        self.entropies: dict[str, float] = {}

    def get_shuffled_test_loader_iter(self, task: str) -> Iterator[tuple[Tensor]]:
        if task == "0":
            self.stamp()
        ids = batch(task, self.seen[task], self.size)
        self.seen[task] += 1
        return iter([(ids,)])

    def compute_logits(self, module: torch.nn.Module, images: Tensor, task: str) -> Tensor:
        logits = module(input_ids=images).last_hidden_state[:, 0] @ self.heads[task].T
        log_p = logits.detach().log_softmax(dim=-1)
        self.entropies[task] = float(-(log_p.exp() * log_p).sum(dim=-1).mean())
        return logits


def main() -> None:
    way, folder, models = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    size = "quick" if "--quick" in sys.argv else "full"
    torch.set_num_threads(1)
    places = [folder / "base", *(folder / f"tuned{k + 1}" for k in range(models))]
    memory = Memory(size)
    found: dict[str, float] = {}
    if way == "floor":
        found["seconds"] = floor(places[0], models, size)
    else:
        made: list[Layerwise] = []

        def run(stamp: Callable[[], None]) -> None:
            made.append(Layerwise(models, size, stamp))
            made[0].run(Pool(places, size))

        found["seconds"] = between(run)
        found["entropy"] = sum(made[0].entropies.values()) / models
    found["memory"] = memory.multiple()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
