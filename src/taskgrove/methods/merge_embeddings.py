"""Merges embedding models tuned from one base: Self Positioning on a user's own pairs.

Models are folders of sentence-transformers or of transformers alone (see backbones/sentence), the
probe is pair files (see tasks/pair_files). A half of each task's probe rows learns the position,
the other half measures it, and stays unseen: its numbers are what the table shows. The models are
held in fp32, all at once.

    theta = theta_0 + m sum_k w_k tau_k      see merging/learned/self_positioning
"""

import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from taskgrove import __version__
from taskgrove.backbones.sentence import Manner, common, open_sentence, save_sentence
from taskgrove.errors import TaskgroveError, listed
from taskgrove.measuring.pair_score import MEASURE
from taskgrove.merging.learned.self_positioning import self_positioning
from taskgrove.merging.learned.task_vector import deltas
from taskgrove.merging.learned.vectors import MemoryVectors
from taskgrove.methods.embedding_work import Work, batches, draw_triangle, weights_of
from taskgrove.tasks.pair_files import read_pairs
from taskgrove.tasks.pairs import Pairs

LEAST = 16  # probe rows of a task: half learn, half measure
ROWS = BASE, AVERAGE, MERGED = "base", "average", "merged"  # of the table, beside the models
Scores = dict[str, dict[str, float]]  # {task: {model: 0 to 100}}


@dataclass(frozen=True)
class MergedEmbeddings:
    """What a merge leaves, beside the folder."""

    models: tuple[str, ...]
    weights: list[float]  # w
    scale: float  # m
    scores: Scores  # on the measuring half: "base", each model, "average", "merged"
    measures: dict[str, str]
    notes: tuple[str, ...]
    out: Path


def merge_embeddings(
    base: Path,
    tuned: Sequence[Path],
    probe: Sequence[Path],
    out: Path,
    steps: int = 60,
    learning_rate: float = 0.03,
    batch: int = 16,
    temperature: float = 0.05,
    beta: float = 0.0,  # weight of the distance from the base
    relative: bool = False,  # each task's loss divided by its value at the base
    max_length: int | None = None,  # tokens of a text; the models' own, or 128
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,  # (steps done, of how many)
) -> MergedEmbeddings:
    """Learns the position and writes the merged model's folder."""
    how, names = check(base, tuned, out), names_of(tuned)
    learning, measuring = halves(read_pairs(probe), seed)
    encoder = open_sentence(base, how, max_length)
    work, theta_0 = Work(encoder, temperature), weights_of(encoder)
    models = [weights_of(open_sentence(folder, how, max_length)) for folder in tuned]
    vectors = MemoryVectors(theta_0, deltas(theta_0, models))
    path: list[list[float]] = []

    def keep(state: dict[str, Tensor]) -> None:
        path.append(state["coefficients"].softmax(0).tolist())
        if progress:
            progress(len(path), steps)

    draws = batches(learning, batch, seed, steps)
    found = self_positioning(
        work.loss, vectors, draws, steps, learning_rate, beta, relative=relative, models=names,
        validate=lambda W: float(np.mean(list(work.scores(W, learning).values()))), progress=keep,
    )  # fmt: skip
    average = {n: torch.stack([m[n] for m in models]).mean(0) for n in theta_0}
    every = {BASE: theta_0, **dict(zip(names, models, strict=True)), AVERAGE: average}
    by_model = {n: work.scores(W, measuring) for n, W in (every | {MERGED: found.weights}).items()}
    scores = {task: {n: one[task] for n, one in by_model.items()} for task in measuring}
    measures = {task: MEASURE[rows.kind] for task, rows in learning.items()}
    result = MergedEmbeddings(names, found.w.tolist(), found.m, scores, measures, found.notes, out)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as scratch:
        aside = Path(scratch) / out.name
        save_sentence(base, encoder, found.weights, how, aside)
        (aside / "position.json").write_text(json.dumps(record(result), indent=2))
        if len(models) == 3:
            way, kept = np.array([[1 / 3] * 3, *path]), (found.w, found.m)
            draw_triangle(work, vectors, draws, names, way, kept, aside / "position.png")
        aside.rename(out)
    return result


def record(merged: MergedEmbeddings) -> dict[str, Any]:
    """What position.json keeps."""
    return {
        "method": "self_positioning",
        "weights": dict(zip(merged.models, merged.weights, strict=True)),
        "scale": merged.scale,
        "measures": merged.measures,
        "scores": merged.scores,
        "notes": list(merged.notes),
        "taskgrove": __version__,
    }


def told(merged: MergedEmbeddings) -> str:
    """The position and the table, for a terminal."""
    weights = zip(merged.models, merged.weights, strict=True)
    names = list(next(iter(merged.scores.values())))
    rows = [["task", "measure", *names]]
    for task, found in merged.scores.items():
        rows.append([task, merged.measures[task], *(f"{found[name]:.1f}" for name in names)])
    means = [np.mean([found[name] for found in merged.scores.values()]) for name in names]
    rows.append(["mean", "", *(f"{mean:.1f}" for mean in means)])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
             for row in rows]  # fmt: skip
    place = ", ".join(f"{name} {weight:.3f}" for name, weight in weights)
    return "\n".join([f"position  scale {merged.scale:.3f}; {place}", *lines, *merged.notes])


def check(base: Path, tuned: Sequence[Path], out: Path) -> Manner:
    """All that can be refused before anything is computed."""
    if len(tuned) < 2:
        raise TaskgroveError(f"got {len(tuned)} tuned models; expected two or more to merge.")
    if twice := [str(folder) for n, folder in enumerate(tuned) if folder in tuned[:n]]:
        raise TaskgroveError(f"{listed(twice)} is named twice; expected different models.")
    for folder in (base, *tuned):
        if not folder.is_dir():
            raise TaskgroveError(f"{folder} is not a folder; expected a saved model.")
    if out.exists():
        raise TaskgroveError(f"{out} exists; expected a new folder, so that nothing is lost.")
    if not out.parent.is_dir():
        raise TaskgroveError(f"{out.parent} is not a folder, so {out} cannot be made in it.")
    return common([base, *tuned])


def names_of(tuned: Sequence[Path]) -> tuple[str, ...]:
    """The folders' own names, or their paths where those are taken."""
    names = [folder.name for folder in tuned]
    free = len({*names, *ROWS}) == len(names) + len(ROWS)
    return tuple(names) if free else tuple(str(folder) for folder in tuned)


def halves(tasks: dict[str, Pairs], seed: int) -> tuple[dict[str, Pairs], dict[str, Pairs]]:
    """As many rows of each task to learn from, the task's others to measure on."""
    few = {task: len(rows) for task, rows in tasks.items() if len(rows) < LEAST}
    if few:
        raise TaskgroveError(
            f"the probe has {next(iter(few.values()))} rows of {listed(few, 1)}; expected at least"
            f" {LEAST} of each task: half learn the position, half measure it."
        )
    for task, rows in tasks.items():
        if (rows.classes or rows.grades) and len({*rows.classes, *rows.grades}) < 2:
            what = "label" if rows.classes else "score"
            raise TaskgroveError(
                f'all rows of the probe\'s "{task}" have the same {what}; expected at least two.'
            )
    order = {t: np.random.default_rng(seed).permutation(len(rows)) for t, rows in tasks.items()}
    count = min(len(rows) for rows in tasks.values()) // 2
    return (
        {task: rows.take(order[task][:count]) for task, rows in tasks.items()},
        {task: rows.take(order[task][count:]) for task, rows in tasks.items()},
    )
