"""Composes folders of transformers models for a new task: aTLAS out of core.

A drawer of models tuned from one base, and a few labelled rows (few shots, see
merging/learned/few_shot) or rows without labels (test time, see merging/learned/adapt) of a task
that none of them was tuned on. One unbounded coefficient a model and tensor is learned, from 0;
the head is frozen (see atlas_target). Task vectors are read from the folders at every step.

Written: the composed model, `coefficients.json`, `coefficients.png`, and `label_head.safetensors`
where the head is made of label texts. A run that was stopped goes on from the last ten steps' end.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from taskgrove.errors import listed
from taskgrove.merging.learned.adapt import adapt
from taskgrove.merging.learned.atlas import FEW_SHOT, TEST_TIME, Composed, Scaling
from taskgrove.merging.learned.disk_vectors import DiskVectors
from taskgrove.merging.learned.few_shot import Shots, few_shot
from taskgrove.methods.atlas_report import AtlasMerge, Composing, write
from taskgrove.methods.atlas_target import Target, classes_in, target_of
from taskgrove.methods.learned_family import Family, open_family
from taskgrove.methods.learned_folder import write_folder
from taskgrove.methods.learned_rows import Inputs, Texts, accuracy, numbered, texts_of
from taskgrove.methods.merge_learned import KEPT, mark_of, names_of, remove, resumed
from taskgrove.training import checkpoint

EVERY = 10  # steps between two states on disk
HIDDEN = 0.15  # share of the tokens that a strong view leaves out
PRESETS = {True: FEW_SHOT, False: TEST_TIME}


def merge_atlas(
    base: Path,
    tuned: Sequence[Path],
    rows: Path,
    out: Path,
    labelled: bool = True,  # few shots; else rows without labels
    text: Sequence[str] = ("text",),  # one column, or two of a pair
    label: str = "label",  # the column of classes
    valid: Path | None = None,  # labelled rows, to measure on
    composing: Composing | None = None,
    progress: Callable[[int, int, float], None] | None = None,  # (steps done, of, loss)
) -> AtlasMerge:
    """Learns the coefficients and writes the composed model's folder."""
    how = composing or Composing()
    names = names_of(base, tuned, out)
    family = open_family(base, tuned, names)
    classes = classes_in(rows, label) if labelled else how.classes
    target = target_of(base, family, classes, how.max_length)
    config = (target.own or family.members[0]).config
    texts, notes = texts_of(rows, tuple(text), base, config, how.max_length)
    number = {name: n for n, name in enumerate(target.classes)}
    labels = numbered(rows, label, number) if labelled else None
    measured = None
    if valid is not None:
        read_ = texts_of(valid, tuple(text), base, config, how.max_length)[0]
        measured = read_, numbered(valid, label, number)
    part = out.parent / f".{out.name}.part"
    part.mkdir(parents=True, exist_ok=True)
    state, mark = (
        part / KEPT,
        mark_of(family, [base, *tuned, rows], [*text, label, str(labelled)], how),
    )
    vectors = DiskVectors(family.trunk, family.tuned)
    scaling = scaling_of(how, labelled)

    def tell(kept: dict[str, Tensor]) -> None:
        done = len(kept["curve"])
        if done % EVERY == 0:
            checkpoint.write(state, kept, {"mark": mark})
        if progress:
            progress(done, scaling.steps, float(kept["curve"][-1].mean()))

    found = _composed(target, vectors, texts, labels, how, scaling, resumed(state, mark), tell)
    scores: dict[str, float] = {}
    if measured:
        for what, W in (("base", vectors.whole({})), ("composed", found.weights)):
            right = accuracy(partial(target.predict, W), *measured, how.batch)
            scores |= {} if right is None else {what: right}
    said = (*family.notes, *notes, *_alike(family, target), *found.notes)
    result = AtlasMerge(out, found, target.classes, scores, said)
    for path in part.iterdir():
        remove(path)
    write_folder(base, replace(family, members=()), found.weights, part)
    write(result, target, names, how, part)
    part.rename(out)
    return result


def scaling_of(how: Composing, labelled: bool) -> Scaling:
    """The preset of the use, with what the user gave in its place."""
    given = {"steps": how.steps, "learning_rate": how.learning_rate}
    kind = "tensor" if how.partitions == 1 else "partition"
    asked = {name: value for name, value in given.items() if value is not None}
    return replace(
        PRESETS[labelled], granularity=kind, partitions=how.partitions, seed=how.seed, **asked
    )


def _composed(
    target: Target,
    vectors: DiskVectors,
    texts: Texts,
    labels: Tensor | None,
    how: Composing,
    scaling: Scaling,
    resume: dict[str, Tensor] | None,
    tell: Callable[[dict[str, Tensor]], None],
) -> Composed:
    def forward(weights: Mapping[str, Tensor], task: str, inputs: Inputs) -> Tensor:  # noqa: ARG001
        return target.predict(weights, inputs)

    if labels is not None:
        has = (labels >= 0).nonzero()[:, 0]
        shots = Shots(lambda some, step: texts.batch(has[some]), labels[has])  # noqa: ARG005
        return few_shot(forward, vectors, shots, how.batch, how.folds, scaling, resume, tell)
    return adapt(
        forward, vectors,
        lambda some, step: texts.batch(some),  # noqa: ARG005
        lambda some, step: hidden(texts.batch(some), step, how.seed),
        len(texts), how.batch, scaling=scaling, resume=resume, progress=tell,
    )  # fmt: skip


def hidden(inputs: Inputs, step: int, seed: int) -> Inputs:
    """A strong view: some tokens between the first and the last cannot be attended to."""
    g = torch.Generator().manual_seed(seed * 1_000_003 + step)
    mask = inputs["attention_mask"]
    keep = torch.rand(mask.shape, generator=g) >= HIDDEN
    keep[:, 0] = keep[:, -1] = True
    keep |= (mask * keep).sum(1, keepdim=True) == 0  # a row is never hidden whole
    return {**inputs, "attention_mask": mask * keep}


def _alike(family: Family, target: Target) -> list[str]:
    """Models that may have been tuned on the target itself."""
    same = [
        m.name for m in family.members
        if m.own and set((m.config.label2id or {}).keys()) == set(target.classes)
    ]  # fmt: skip
    words = "the target's own classes; a model tuned on its rows belongs in no pool"
    return [f"{listed(same)}: {words}"] if same else []
