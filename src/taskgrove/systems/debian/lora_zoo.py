"""Sixteen small tasks on MiniLM, and a LoRA of each: what a generator of LoRAs learns from.

A task is half of the classes of a Debian facet. Its head is fixed: the cosine of a text's features
to those of the class names, so that all of a task's learning is in its LoRA (rank 2, queries and
values of the upper two layers). The last steps' weights are kept, as checkpoints of one run; each
task starts from a draw of its own. The task vector is the mean of the frozen model's features over
training texts with their class in front, as examples are shown in context; no test row is read.
"""

import sys
from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from taskgrove.merging.learned.rounds import drawn
from taskgrove.sharing import lora
from taskgrove.sharing.lora import LoRA, LoRAParts
from taskgrove.sharing.sharing import Sharing
from taskgrove.systems.debian import facet_rows, packed_bert, top_layers
from taskgrove.systems.debian.debtag_models import kept, mark_of
from taskgrove.systems.debian.facet_rows import TARGETS, TASKS, debian, made_up, task_rows
from taskgrove.systems.debian.packed_bert import PackedBert
from taskgrove.systems.debian.top_layers import Encoder, Texts, minilm_encoder, tiny_encoder
from taskgrove.systems.debian.transfer import features

FACETS = (*TASKS, *TARGETS)
SITES = ("layer.*.attention.query", "layer.*.attention.value")
RANK, RATE, SHARP = 2, 5e-3, 20.0  # SHARP: what cosines are multiplied by


@dataclass(frozen=True)
class Size:
    """How large the experiment is."""

    train: int = 384  # rows of a facet
    test: int = 300
    steps: int = 90
    batch: int = 24
    kept: int = 30  # checkpoints of the last steps
    shown: int = 30  # examples in a task vector


FULL, QUICK = Size(), Size(48, 40, 8, 8, 4, 8)
State = dict[str, Tensor]
Labelled = tuple[Texts, Tensor]  # labels [row]


@dataclass(frozen=True, eq=False)
class LoraTask:
    """Rows of a task, its fixed head, its checkpoints (the last is the LoRA) and its vector."""

    name: str
    train: Labelled
    test: Labelled
    head: Float[Tensor, "class dim"]
    vector: Float[Tensor, " dim"]
    states: list[State]


@dataclass(frozen=True, eq=False)
class Zoo:
    """The trunk with a LoRA's place on it, and the tasks."""

    trunk: PackedBert
    sharing: Sharing
    tasks: list[LoraTask]

    def accuracy(self, task: LoraTask, state: State | None) -> float:
        """Test accuracy in %, with a LoRA or none."""
        if state is not None:
            write(self.sharing, state)
        texts, labels = task.test
        parts = self.sharing if state is not None else None
        with torch.no_grad():
            told = logits(features(self.trunk, parts, texts), task.head).argmax(1)
        return 100 * (told == labels).double().mean().item()


def attached(trunk: PackedBert, seed: int) -> Sharing:
    """A LoRA as it starts."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Sharing(trunk, [(SITES, LoRA(rank=RANK, alpha=8.0, stabilised=True))], ["task"])


def read(sharing: Sharing) -> State:
    """A and B at each site, as copies."""
    parts, found = sharing.parts[0], {}
    assert isinstance(parts, LoRAParts)
    for site in parts.points():
        A, B = parts.of_task(site, 0)
        found |= {f"{site}.A": A.detach().clone(), f"{site}.B": B.detach().clone()}
    return found


@torch.no_grad()
def write(sharing: Sharing, state: State) -> None:
    """What `read` gave."""
    parts = sharing.parts[0]
    assert isinstance(parts, LoRAParts)
    for site in parts.points():
        A, B = parts.of_task(site, 0)
        A.copy_(state[f"{site}.A"])
        B.copy_(state[f"{site}.B"])


def logits(x: Float[Tensor, "row dim"], head: Float[Tensor, "class dim"]) -> Tensor:
    """Cosines, sharpened."""
    return SHARP * normalize(x, dim=1) @ head.T


def trained(trunk: PackedBert, rows: Labelled, head: Tensor, size: Size, seed: int) -> list[State]:
    """Checkpoints of the last steps of one run."""
    sharing, (texts, labels), states = attached(trunk, seed), rows, []
    adam = torch.optim.AdamW(sharing.parameters(), lr=RATE, weight_decay=0.0)
    every = torch.arange(len(labels))
    for step in range(size.steps):
        left = 1 - step / size.steps
        adam.param_groups[0]["lr"] = RATE * max(left, size.kept / size.steps)
        some = drawn(every, step, size.batch, seed)
        adam.zero_grad()
        told = logits(features(trunk, sharing, texts.take(some)), head)
        cross_entropy(told, labels[some]).backward()
        adam.step()
        if step >= size.steps - size.kept:
            states.append(read(sharing))
    sharing.detach()
    return states


@lru_cache(maxsize=1)
def zoo(seed: int, quick: bool) -> Zoo:
    """All tasks of a seed; their LoRAs are trained once and kept in the user's cache."""
    size = QUICK if quick else FULL
    encoder = tiny_encoder() if quick else minilm_encoder()
    trunk, table = PackedBert(encoder), made_up() if quick else debian()
    counts = {"train": size.train, "validation": 0, "pool": 0, "test": size.test}
    code = (facet_rows, top_layers, packed_bert, lora, sys.modules[__name__])
    mark = mark_of(code, quick, seed, size, torch.__version__)
    tasks = []
    for n, facet in enumerate(FACETS):
        rows = task_rows(table, facet, seed, counts)
        half = max(1, len(rows.classes) // 2)
        halves = (range(half), range(half, len(rows.classes)))
        for side, classes in enumerate(halves):
            if len(classes) > 1:
                made = 1000 * seed + 2 * n + side
                tasks.append(_task(encoder, trunk, rows, list(classes), size, made, mark))
    return Zoo(trunk, attached(trunk, 0), tasks)


def _task(
    encoder: Encoder, trunk: PackedBert, rows: facet_rows.TaskRows, classes: list[int], size: Size,
    seed: int, mark: str,
) -> LoraTask:  # fmt: skip
    def part(name: str) -> tuple[list[str], list[int]]:
        all_rows = rows.parts[name]
        found = [(t, classes.index(c)) for t, c in zip(all_rows.texts, all_rows.labels, strict=True)
                 if c in classes]  # fmt: skip
        return [t for t, _ in found], [c for _, c in found]

    names = [rows.classes[c].replace("-", " ").replace(":", " ") for c in classes]
    texts, labels = part("train")
    train, test = ((encoder.read(t), torch.tensor(c)) for t, c in ((texts, labels), part("test")))
    shown = [f"{names[c]}: {t}" for t, c in zip(texts, labels, strict=True)][: size.shown]
    with torch.no_grad():
        head = normalize(trunk(encoder.read(names)), dim=1)
        vector = trunk(encoder.read(shown)).mean(0)

    def make() -> dict[str, Tensor]:
        states = trained(trunk, train, head, size, seed)
        return {
            f"{n}:{name}": w.contiguous() for n, s in enumerate(states) for name, w in s.items()
        }

    known = kept(f"debian-zoo-{mark}-{seed}", make)
    states: list[State] = [{} for _ in range(size.kept)]
    for name, w in known.items():
        number, rest = name.split(":")
        states[int(number)][rest] = w
    return LoraTask(f"{rows.name}: {', '.join(names)}", train, test, head, vector, states)
