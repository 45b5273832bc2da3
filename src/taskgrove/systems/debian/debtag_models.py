"""A seed's Debian tasks as a model meets them: hidden states, labels, heads, answers and losses.

What the frozen layers say of the seed's texts is kept in the user's cache, named by a digest of
the code and the rows, so that every arm of every claim reads the same. Every task has a frozen head
made of its labels' names, so any weights of the top layers can answer any task.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from types import ModuleType

import torch
from jaxtyping import Bool, Float, Int
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import cross_entropy

from taskgrove.systems.debian import facet_rows, top_layers
from taskgrove.systems.debian.facet_rows import (
    TARGETS,
    TASKS,
    Rows,
    TaskRows,
    debian,
    first_shots,
    made_up,
    task_rows,
)
from taskgrove.systems.debian.top_layers import (
    Encoder,
    Texts,
    Weights,
    minilm_encoder,
    tiny_encoder,
)
from taskgrove.tasks import label_text_head
from taskgrove.tasks.cache import cache_folder, written_aside
from taskgrove.tasks.label_text_head import LabelTextHead

Chosen = Mapping[str, Int[Tensor, " row"]]  # rows of each task


@dataclass(frozen=True)
class Size:
    """How many rows there are."""

    train: int = 384
    validation: int = 96
    pool: int = 128
    test: int = 300
    shots: int = 16  # at most, of a class of a target

    def counts(self, task: str) -> dict[str, int]:
        """Rows of each part; a target is tested on twice as many, where there are."""
        test = self.test * (2 if task in TARGETS else 1)
        return {"train": self.train, "validation": self.validation, "pool": self.pool, "test": test}


FULL, QUICK = Size(), Size(48, 12, 12, 24, 2)


@dataclass(frozen=True)
class Part:
    texts: Texts
    labels: Int[Tensor, " row"]


@dataclass(frozen=True, eq=False)
class Substrate:
    """What a seed has; `parts`: {task or target: {train, validation, pool, test}}."""

    seed: int
    quick: bool
    encoder: Encoder
    heads: dict[str, LabelTextHead]
    parts: dict[str, dict[str, Part]]
    mark: str  # of the code and the rows

    def logits(self, weights: Weights, task: str, texts: Texts) -> Float[Tensor, "row class"]:
        return self.heads[task](self.encoder.features(weights, texts))

    def loss(self, weights: Weights, chosen: Chosen, part: str) -> Tensor:
        """Mean cross-entropy over the chosen rows, all tasks in one pass."""
        mine = {task: self.parts[task][part] for task in chosen}
        texts = [mine[task].texts.take(rows) for task, rows in chosen.items()]
        both = Texts(torch.cat([t.tokens for t in texts]), torch.cat([t.lengths for t in texts]))
        features = self.encoder.features(weights, both).split([len(t) for t in texts])
        losses = [
            cross_entropy(self.heads[task](z), mine[task].labels[chosen[task]], reduction="sum")
            for task, z in zip(chosen, features, strict=True)
        ]
        return torch.stack(losses).sum() / len(both)

    @torch.no_grad()
    def features(
        self, weights: Weights, task: str, part: str, rows: Int[Tensor, " row"] | None = None
    ) -> Float[Tensor, "row dim"]:
        """Of all rows of a part, or of some."""
        texts = self.parts[task][part].texts
        texts = texts if rows is None else texts.take(rows)
        order = texts.lengths.argsort()  # short texts beside short ones
        found = [self.encoder.features(weights, texts.take(some)) for some in order.split(64)]
        return torch.cat(found)[order.argsort()]

    def answers(
        self, weights: Weights, task: str, part: str, rows: Int[Tensor, " row"] | None = None
    ) -> Float[Tensor, "row class"]:
        """Logits of all rows of a part, or of some."""
        return self.heads[task](self.features(weights, task, part, rows))

    def right(
        self, weights: Weights, task: str, part: str, rows: Int[Tensor, " row"] | None = None
    ) -> Bool[Tensor, " row"]:
        """Which rows are told right."""
        labels = self.parts[task][part].labels
        told = self.answers(weights, task, part, rows).argmax(dim=1)
        return told == (labels if rows is None else labels[rows])

    def accuracy(self, weights: Weights, part: str, rows: Chosen | None = None) -> float:
        """Mean over the six tasks, in percent."""
        rights = [self.right(weights, t, part, rows[t] if rows else None) for t in TASKS]
        return 100 * torch.stack([right.double().mean() for right in rights]).mean().item()


@lru_cache(maxsize=1)
def substrate(seed: int, quick: bool) -> Substrate:
    """Rows, hidden states and heads of a seed."""
    size = QUICK if quick else FULL
    table, encoder = (made_up(), tiny_encoder()) if quick else (debian(), minilm_encoder())
    rows = {task: task_rows(table, task, seed, size.counts(task)) for task in (*TASKS, *TARGETS)}
    for target in TARGETS:
        rows[target].parts["train"] = first_shots(rows[target].parts["train"], size.shots)
    modules = facet_rows, top_layers, label_text_head
    mark = mark_of(modules, quick, seed, size, rows, torch.__version__)
    states = kept(f"debian-states-{mark}", lambda: _states(encoder, rows))
    parts = {
        name: {part: _part(states, f"{name}/{part}", found) for part, found in task.parts.items()}
        for name, task in rows.items()
    }
    heads = {name: _head(encoder, task) for name, task in rows.items()}
    return Substrate(seed, quick, encoder, heads, parts, mark)


def _part(states: dict[str, Tensor], name: str, rows: Rows) -> Part:
    texts = Texts(states[f"{name}/tokens"].float(), states[f"{name}/lengths"])
    return Part(texts, torch.tensor(rows.labels))


def _states(encoder: Encoder, rows: dict[str, TaskRows]) -> dict[str, Tensor]:
    """In half precision, which is what every arm reads."""
    found = {}
    for name, task in rows.items():
        for part, mine in task.parts.items():
            texts = encoder.read(mine.texts)
            found[f"{name}/{part}/tokens"] = texts.tokens.half()
            found[f"{name}/{part}/lengths"] = texts.lengths
    return found


def _head(encoder: Encoder, task: TaskRows) -> LabelTextHead:
    names = [name.replace("-", " ").replace(":", " ") for name in task.classes]
    base = encoder.base()
    return label_text_head.label_text_head(
        lambda texts: encoder.features(base, encoder.read(texts)),
        names,
        [f"{task.name.replace('-', ' ')}: {{}}"],
    )


def mark_of(modules: Iterable[ModuleType], *of: object) -> str:
    """A digest of code and of whatever else matters."""
    digest = blake2b(repr(of).encode(), digest_size=12)
    for path in (*(str(module.__file__) for module in modules), __file__):
        digest.update(Path(path).read_bytes())
    return digest.hexdigest()


def kept(name: str, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """Tensors of the user's cache; made first if they are new."""
    path = cache_folder() / f"{name}.safetensors"
    if not path.exists():
        found = make()
        with written_aside(path) as aside:
            save_file(found, aside)
    return load_file(path)
