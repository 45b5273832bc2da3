"""The arms of the claim about aTLAS: one model for six tasks, and a new task from few shots."""

from collections.abc import Callable
from dataclasses import replace

from torch import Tensor

from taskgrove.merging.learned import atlas
from taskgrove.merging.learned.few_shot import Shots, few_shot
from taskgrove.merging.learned.rounds import drawn
from taskgrove.systems.debian.debtag_models import Substrate
from taskgrove.systems.debian.facet_rows import TASKS
from taskgrove.systems.debian.few_shots import BATCH, COMPOSED, PAPER_RATE, full, lora, single
from taskgrove.systems.debian.merges import (
    ROWS,
    best_arithmetic,
    labelled,
    learned,
    tuned_on_labels,
    vectors,
)
from taskgrove.systems.debian.top_layers import Texts, Weights

FOLDS = 2  # of the cross-validation that asks whether composing helps

Way = Callable[[Substrate, bool], Weights]
FewWay = Callable[[Substrate, bool, str, Tensor], Weights]


def added(granularity: str) -> Way:
    """Coefficients learned from labels of the six tasks; the best of a few looks."""

    def merge(world: Substrate, quick: bool) -> Weights:
        fitted, choose = labelled(world, True), labelled(world, False)

        def rows(task: str) -> Callable[[int], tuple[Texts, Tensor]]:
            part = world.parts[task]["validation"]

            def draw(step: int) -> tuple[Texts, Tensor]:
                some = drawn(fitted[task], step, ROWS, world.seed)
                return part.texts.take(some), part.labels[some]

            return draw

        scaling = replace(atlas.ADDITION, granularity=granularity)
        found = atlas.addition(
            world.logits, vectors(world), {task: rows(task) for task in TASKS},
            dict.fromkeys(TASKS, "classes"), replace(scaling, steps=2) if quick else scaling,
            lambda weights: world.accuracy(weights, "validation", choose),
        )  # fmt: skip
        return found.weights

    return merge


def composed(
    granularity: str, folds: int = 0, partitions: int = 1, rate: float | None = None
) -> FewWay:
    """Coefficients learned from shots of a target; `rate`: another than the chosen one."""

    def merge(world: Substrate, quick: bool, target: str, rows: Tensor) -> Weights:
        part = world.parts[target]["train"]
        texts, labels = part.texts.take(rows), part.labels[rows]
        scaling = replace(COMPOSED, granularity=granularity, partitions=partitions)
        scaling = replace(scaling, learning_rate=rate or scaling.learning_rate)
        found = few_shot(
            lambda weights, _, some: world.logits(weights, target, some), vectors(world),
            Shots(lambda some, _: texts.take(some), labels), BATCH, folds,
            replace(scaling, steps=2) if quick else scaling,
        )  # fmt: skip
        return found.weights

    return merge


ADDITION: dict[str, Way] = {
    "arithmetic_best": lambda world, _: best_arithmetic(world)[0],
    "isotropic": added("task"),
    "atlas": added("tensor"),
    "adamerging": lambda world, quick: learned(world, quick).weights,  # no labels
    "full": lambda world, quick: tuned_on_labels(world, quick, best_arithmetic(world)[0])[0],
}
FEW_SHOT: dict[str, FewWay] = {
    "zero_shot": lambda world, *_: world.encoder.base(),
    "probe": lambda world, *_: world.encoder.base(),  # and text_probe: see few_shots.probe
    "text_probe": lambda world, *_: world.encoder.base(),
    "lora": lambda world, _, target, rows: lora(world, target, rows),
    "full": lambda world, _, target, rows: full(world, target, rows),
    "single": lambda world, _, target, rows: single(world, target, rows),
    "isotropic": composed("task"),
    "isotropic_paper": composed("task", rate=PAPER_RATE),
    "atlas": composed("tensor"),
    "atlas_paper": composed("tensor", rate=PAPER_RATE),
    "atlas_checked": composed("tensor", folds=FOLDS),  # zero-shot where that is better
}
