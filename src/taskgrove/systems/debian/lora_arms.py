"""The arms of the claim about generated LoRAs: what stands in a task's LoRA's place.

original: the task's own. none: the frozen model. soup: the mean of all tasks' LoRAs, the last of
each. cvae: generated from the task's vector; shuffled: from another task's. unconditional: a
generator that is given no vector; random_keys: one whose vectors are random, which can only look
tasks up. ridge: principal components and a linear map (sharing/weight_ridge).
Statistics are global, one mean and deviation a tensor, or each task's own, which tell the task.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from taskgrove.sharing.weight_codec import WeightCodec, codec_of, statistics
from taskgrove.sharing.weight_generator import Sizes, fit, size_in_bytes
from taskgrove.sharing.weight_ridge import weight_ridge
from taskgrove.systems.debian.lora_zoo import LoraTask, State, Zoo
from taskgrove.systems.system import Found

GENERATED = ("unconditional", "shuffled", "random_keys", "cvae", "ridge")
ARMS = ("original", "none", "soup", *GENERATED)


SIX = Sizes((8, 16, 32, 32, 16, 8), latent=32)  # for 6,144 numbers


@dataclass(frozen=True)
class Pace:
    """How long and how large generators are."""

    steps: int = 500
    rate: float = 2e-3
    samples: int = 5
    sizes: Sizes = SIX


FULL, QUICK = Pace(), Pace(6, 2e-3, 2, Sizes((4, 4), latent=4, hidden=8))


@dataclass(frozen=True)
class Known:
    """What generators learn from: w [checkpoint number], c [checkpoint dim], statistics a task."""

    codec: WeightCodec
    w: Tensor
    c: Tensor
    stats: list[Tensor]

    @staticmethod
    def of(tasks: Sequence[LoraTask], own: bool) -> "Known":
        """`own`: each checkpoint by its own statistics."""
        states = [state for task in tasks for state in task.states]
        codec, same = codec_of(states), None if own else statistics(states)
        coded = [codec.encode(state, same) for state in states]
        c = torch.stack([task.vector for task in tasks for _ in task.states])
        last = [codec.encode(task.states[-1], same)[1] for task in tasks]
        return Known(codec, torch.stack([w for w, _ in coded]), c, last)


def soup(tasks: Sequence[LoraTask]) -> State:
    """The mean of the tasks' LoRAs."""
    last = [task.states[-1] for task in tasks]
    return {name: torch.stack([state[name] for state in last]).mean(0) for name in last[0]}


def of_known(zoo: Zoo, seed: int, pace: Pace, own: bool) -> Found:
    """{arm: accuracy of each task}, and bytes; the tasks are those that generators learned from."""
    tasks, known = zoo.tasks, Known.of(zoo.tasks, own)
    each, count = len(tasks[0].states), len(tasks)
    keys = torch.randn(count, known.c.shape[1], generator=torch.Generator().manual_seed(seed))
    given = {"cvae": known.c, "unconditional": torch.zeros_like(known.c),
             "random_keys": keys.repeat_interleave(each, 0)}  # fmt: skip
    cvaes = {arm: fit(known.w, c, pace.sizes, steps=pace.steps, rate=pace.rate, seed=seed)
             for arm, c in given.items()}  # fmt: skip
    ridge, mean = weight_ridge(known.w, known.c), soup(tasks)
    found: dict[str, list[float]] = {arm: [] for arm in ARMS}
    for n, task in enumerate(tasks):
        asked = {arm: (cvaes[arm], c[n * each]) for arm, c in given.items()}
        asked["shuffled"] = cvaes["cvae"], tasks[(n + count // 2) % count].vector
        for arm, (cvae, c) in asked.items():
            drawn = cvae.generate(c, pace.samples, seed=1000 * seed + n)
            found[arm].append(_mean(zoo, task, known, drawn, known.stats[n]))
        drawn = ridge.generate(task.vector)[None]
        found["ridge"].append(_mean(zoo, task, known, drawn, known.stats[n]))
        for arm, state in {"original": task.states[-1], "none": None, "soup": mean}.items():
            found[arm].append(zoo.accuracy(task, state))
    size = {
        "cvae": size_in_bytes(cvaes["cvae"]),
        "ridge": ridge.size_in_bytes,
        "statistics": 4 * known.stats[0].numel() * (count if own else 1),
        "LoRAs": 4 * known.codec.numbers * count,
    }
    return {"accuracy": found, "tasks": [task.name for task in tasks], "bytes": size}


def of_unseen(zoo: Zoo, seed: int, pace: Pace) -> Found:
    """Two tasks, one of each of two facets, that generators have not seen; global statistics."""
    count = len(zoo.tasks)
    out = {(2 * seed) % count, (2 * seed + 1 + count // 2) % count}
    seen = [task for n, task in enumerate(zoo.tasks) if n not in out]
    known = Known.of(seen, False)
    cvae = fit(known.w, known.c, pace.sizes, steps=pace.steps, rate=pace.rate, seed=seed)
    ridge, mean, stats = weight_ridge(known.w, known.c), soup(seen), known.stats[0]
    arms = ("original", "none", "soup", "cvae", "ridge", "nearest")
    found: dict[str, list[float]] = {arm: [] for arm in arms}
    vectors = torch.stack([task.vector for task in seen])
    for n in sorted(out):
        task = zoo.tasks[n]
        near = seen[int((vectors - task.vector).norm(dim=1).argmin())]
        drawn = cvae.generate(task.vector, pace.samples, seed=1000 * seed + n)
        found["cvae"].append(_mean(zoo, task, known, drawn, stats))
        drawn = ridge.generate(task.vector)[None]
        found["ridge"].append(_mean(zoo, task, known, drawn, stats))
        states = {"original": task.states[-1], "none": None, "soup": mean,
                  "nearest": near.states[-1]}  # fmt: skip
        for arm, state in states.items():
            found[arm].append(zoo.accuracy(task, state))
    return {"accuracy": found, "tasks": [zoo.tasks[n].name for n in sorted(out)]}


def _mean(zoo: Zoo, task: LoraTask, known: Known, drawn: Tensor, stats: Tensor) -> float:
    """Accuracy, the mean over generated LoRAs."""
    scores = [zoo.accuracy(task, known.codec.decode(w, stats)) for w in drawn]
    return sum(scores) / len(scores)
