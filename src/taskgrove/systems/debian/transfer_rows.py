"""Rows and hidden states for transfer between the eight Debian tasks, large ones and small ones.

What MiniLM's lower three layers say of a seed's texts is computed once and kept in the user's
cache; the upper three are modules (see packed_bert), frozen, to which parts are attached.
A task's test rows depend on their source package alone and are in no task's training part.
"""

from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from jaxtyping import Int
from torch import Tensor

from taskgrove.systems.debian import facet_rows, top_layers
from taskgrove.systems.debian.debtag_models import kept, mark_of
from taskgrove.systems.debian.facet_rows import TARGETS, TASKS, debian, made_up, task_rows
from taskgrove.systems.debian.packed_bert import PackedBert
from taskgrove.systems.debian.top_layers import Texts, minilm_encoder, tiny_encoder

SOURCES = (*TASKS, *TARGETS)


@dataclass(frozen=True)
class Size:
    """How large the experiment is."""

    train: int = 384  # rows of a source
    validation: int = 96
    test: int = 400
    rows: tuple[int, ...] = (100,)  # of a target
    source_steps: int = 72
    steps: int = 64  # of a target
    source_batch: int = 32
    batch: int = 16


FULL, QUICK = Size(), Size(32, 12, 24, (16,), 4, 4, 8, 8)


@dataclass(frozen=True)
class Part:
    """Texts with their labels."""

    texts: Texts
    labels: Int[Tensor, " row"]

    def first(self, rows: int) -> "Part":
        """The first rows, which are as random as any."""
        some = torch.arange(min(rows, len(self.labels)))
        return Part(self.texts.take(some), self.labels[some])


@dataclass(frozen=True, eq=False)
class World:
    """What a seed has; `parts`: {task: {train, validation, test}}."""

    seed: int
    quick: bool
    size: Size
    trunk: PackedBert
    parts: dict[str, dict[str, Part]]
    classes: dict[str, int]
    mark: str  # of the code and the rows


@lru_cache(maxsize=1)
def world(seed: int, quick: bool) -> World:
    """Rows and hidden states of a seed."""
    size = QUICK if quick else FULL
    table = made_up() if quick else debian()
    encoder = tiny_encoder() if quick else replace(minilm_encoder(), lower=3, top=3)
    counts = {"train": size.train, "validation": size.validation, "pool": 0, "test": size.test}
    rows = {task: task_rows(table, task, seed, counts) for task in SOURCES}
    mark = mark_of((facet_rows, top_layers), quick, seed, size, rows, torch.__version__)

    def read() -> dict[str, Tensor]:
        found = {}
        for task, mine in rows.items():
            for part in ("train", "validation", "test"):
                texts = encoder.read(mine.parts[part].texts)
                found[f"{task}/{part}/tokens"] = texts.tokens.half()
                found[f"{task}/{part}/lengths"] = texts.lengths
        return found

    states = kept(f"debian-transfer-{mark}", read)

    def part(task: str, name: str) -> Part:
        tokens, lengths = (states[f"{task}/{name}/{each}"] for each in ("tokens", "lengths"))
        return Part(Texts(tokens.float(), lengths), torch.tensor(rows[task].parts[name].labels))

    names = ("train", "validation", "test")
    parts = {task: {name: part(task, name) for name in names} for task in SOURCES}
    classes = {task: len(mine.classes) for task, mine in rows.items()}
    return World(seed, quick, size, PackedBert(encoder), parts, classes, mark)
