"""atlas: task vectors composed with a learned coefficient for each tensor (merging/learned/atlas).

On your own data: `taskgrove merge atlas --base B --tuned A1 A2 --train few.csv --out M`.

The experiment has adamerging's models: MiniLM tuned on six Debian tasks (systems/debian), one test
part for all seeds. `addition`: one model for the six, from labelled validation rows of each.
`section`: a new task with 12 classes from k rows of each, by the other tasks' vectors, without one
of its own. `interface`: the same for the development target, on whose other rows the settings of
all arms were chosen with seed 100; its scores are shown but decide nothing. There a learning rate
of 0.01 was best for both ways of scaling; arms called `_paper` have the paper's, 0.1. aTLAS x K
splits each tensor at random into K parts with a coefficient each.
"""

from collections.abc import Mapping, Sequence
from time import perf_counter
from typing import Any

import torch

from taskgrove.measuring.claim import Claim, Statement, paired
from taskgrove.systems.debian import few_shots
from taskgrove.systems.debian.compositions import ADDITION, FEW_SHOT, composed
from taskgrove.systems.debian.debtag_models import Substrate, substrate
from taskgrove.systems.debian.facet_rows import TASKS
from taskgrove.systems.debian.merges import vectors
from taskgrove.systems.debian.over_rows import over_rows, scored
from taskgrove.systems.system import Found, System

SHOTS = {"section": (1, 2, 4, 16), "interface": (1, 4)}  # k
QUICK_SHOTS = {"section": (1, 2), "interface": (1,)}
FEW = 4  # the claim is about k up to this
PARTS = {"atlas_x5": 5, "atlas_x20": 20}  # K of aTLAS x K

ARMS = tuple(dict.fromkeys([*ADDITION, *FEW_SHOT, *PARTS]))


def run(arm: str, seed: int, quick: bool) -> Found:
    """{addition: {test, mean}, section: {k: ...}, interface: {k: ...}}, where the arm is tried."""
    world, found = substrate(seed, quick), {}
    if arm in ADDITION:
        start = perf_counter()
        weights = ADDITION[arm](world, quick)
        found["addition"] = {
            "seconds": perf_counter() - start,
            **scored({task: world.right(weights, task, "test") for task in TASKS}),
        }
    for target, several in (QUICK_SHOTS if quick else SHOTS).items():
        if arm in FEW_SHOT:
            found[target] = {str(k): _few(arm, world, quick, target, k) for k in several}
    if arm in PARTS:
        most = max((QUICK_SHOTS if quick else SHOTS)["section"])
        found["curve"] = _few(arm, world, quick, "section", most)
    return found


def _few(arm: str, world: Substrate, quick: bool, target: str, k: int) -> dict[str, Any]:
    rows, start = few_shots.shots(world, target, k), perf_counter()
    if arm in ("probe", "text_probe"):
        logits = few_shots.probe(world, target, rows, "test", arm == "text_probe")
    else:
        way = composed("partition", 0, PARTS[arm]) if arm in PARTS else FEW_SHOT[arm]
        logits = world.answers(way(world, quick, target, rows), target, "test")
    right = logits.argmax(1) == world.parts[target]["test"].labels
    found = {"seconds": perf_counter() - start, "shots": len(rows), **scored({target: right})}
    if arm == "atlas" or arm in PARTS:
        found["trained"] = len(TASKS) * len(vectors(world).names) * PARTS.get(arm, 1)
    return found


def conclude(found: Mapping[str, list[Found]], seeds: Sequence[int]) -> Claim:
    """The statements, from what each arm and seed found."""
    shots = {target: list(found["atlas"][0][target]) for target in SHOTS}
    by_k = {
        target: {arm: {k: [part[target][k]["mean"] for part in found[arm]] for k in shots[target]}
                 for arm in FEW_SHOT}
        for target in SHOTS
    }  # fmt: skip
    few = {target: [k for k in shots[target] if int(k) <= FEW] for target in SHOTS}
    scores = {"addition": {arm: [part["addition"]["mean"] for part in found[arm]]
                           for arm in ADDITION}}  # fmt: skip
    for target in SHOTS:
        scores[f"{target}, mean of k = {', '.join(few[target])}"] = {
            arm: torch.tensor([by_k[target][arm][k] for k in few[target]]).mean(0).tolist()
            for arm in FEW_SHOT
        }

    def added_more(theirs: str) -> list[float]:
        return paired([scores["addition"]["atlas"]], [scores["addition"][theirs]])

    def more(
        theirs: str, ks: Sequence[str], target: str = "section", ours: str = "atlas"
    ) -> list[float]:
        mine, other = by_k[target][ours], by_k[target][theirs]
        return paired([mine[k] for k in ks], [other[k] for k in ks])

    few_k, all_k, dev = few["section"], shots["section"], few["interface"]
    statements = [
        Statement("addition: atlas is 2 points or more above isotropic",
                  added_more("isotropic"), 2.0),
        *(Statement(f"section, k <= {FEW}: atlas is 2 points or more above {arm}",
                    more(arm, few_k), 2.0) for arm in ("probe", "text_probe", "lora")),
        Statement("section, k = 1: atlas is not below zero_shot", more("zero_shot", ["1"]),
                  0.0, 0.5),
        Statement("section, all k: atlas is above isotropic", more("isotropic", all_k)),
        *(Statement(f"addition: atlas is above {arm}", added_more(arm), decides=False)
          for arm in ("arithmetic_best", "adamerging", "full")),
        *(Statement(f"section, k = {k}: atlas is above {arm}", more(arm, [k]), decides=False)
          for arm in ("lora", "full", "isotropic") for k in all_k),
        *(Statement(f"section, k = {k}: at the paper's rate atlas is above {arm}",
                    more(arm, [k], ours="atlas_paper"), decides=False)
          for arm in ("lora", "isotropic_paper") for k in all_k),
        *(Statement(f"interface, k = {k}: atlas is above {arm}", more(arm, [k], "interface"),
                    decides=False) for arm in ("zero_shot", "lora") for k in dev),
        *(Statement(f"{target}, k <= {FEW}: atlas_checked is not below zero_shot",
                    more("zero_shot", few[target], target, "atlas_checked"), 0.0, 0.5,
                    decides=False) for target in SHOTS),
    ]  # fmt: skip
    curves = {f"{target}, by shots of a class": by_k[target] for target in SHOTS}
    curves[f"section, k = {all_k[-1]}, by numbers trained"] = _curve(found, all_k[-1])
    return Claim("atlas", "test accuracy, %", list(seeds), scores, statements, curves,
                 dict(found), _notes(found, few_k))  # fmt: skip


def _curve(found: Mapping[str, list[Found]], most: str) -> dict[str, dict[str, list[float]]]:
    """aTLAS x K by how many coefficients it has; K = 1 is atlas."""
    parts = [[part["section"][most] for part in found["atlas"]]]
    parts += [[part["curve"] for part in found[arm]] for arm in PARTS]
    return {"aTLAS x K": {str(seeds[0]["trained"]): [one["mean"] for one in seeds]
                          for seeds in parts}}  # fmt: skip


def _notes(found: Mapping[str, list[Found]], ks: Sequence[str]) -> list[str]:
    def right(arm: str) -> list[dict[str, str]]:
        parts = [[part["section"][k]["right"]["section"] for k in ks] for part in found[arm]]
        return [{"section": one} for part in parts for one in part]

    notes = []
    for theirs in ("zero_shot", "text_probe", "lora", "isotropic"):
        low, high = over_rows(right("atlas"), right(theirs))
        notes.append(
            f"section, k = {', '.join(ks)}: atlas minus {theirs}, resampling the rows of the one"
            f" test part instead of the seeds: 95 % interval {low:+.2f} to {high:+.2f}"
        )
    return notes


SYSTEM = System(
    slug="atlas",
    title="Knowledge Composition using Task Vectors with Learned Anisotropic Scaling, Zhang et al.",
    year=2024,
    link="https://arxiv.org/abs/2407.02880",
    folders=("merging", "objectives", "measuring", "systems/debian"),
    about="A model for a new task is the base plus other models' task vectors. Each tensor of each"
    " vector has its own coefficient, learned from 0 without bounds. Few labelled rows suffice, as"
    " only these numbers are trained.",
    expected="Coefficients by tensor beat one a vector when several tasks are added; for a new task"
    " with few shots it depends on how related the pool is.",
    seconds=1200,
    command="taskgrove reproduce atlas",
    arms=ARMS,
    run=run,
    conclude=conclude,
)
