"""Merges folders of transformers models with coefficients learned from unlabelled rows.

`adamerging` out of core (see merging/learned/adamerging): task vectors are read from the folders
whenever a step needs them, so memory is the merged weights, their gradients, and what one batch
activates, however many models there are. Each tuned model has a file of its task's rows.

Written: the merged model, a folder for each task's head, `coefficients.json`, three pictures. A run
that was stopped goes on from the last ten steps' end, to the same bits.
"""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

from torch import Tensor

from taskgrove import __version__
from taskgrove.errors import TaskgroveError, listed
from taskgrove.merging.learned.adamerging import AdaMerged, adamerging
from taskgrove.merging.learned.disk_vectors import DiskVectors
from taskgrove.merging.learned.scaled_merge import ScaledMerge
from taskgrove.merging.open_model import files_of
from taskgrove.methods.learned_family import Family, Member, open_family
from taskgrove.methods.learned_folder import write_folder
from taskgrove.methods.learned_report import LearnedMerge, Learning, Scores, write_record
from taskgrove.methods.learned_rows import Texts, accuracy, labels_of, texts_of
from taskgrove.training import checkpoint

KEPT = "state.safetensors"
EVERY = 10  # steps between two states on disk


def merge_learned(
    base: Path,
    tuned: Sequence[Path],
    unlabelled: Sequence[Path],
    out: Path,
    text: Sequence[str] = ("text",),  # one column, or two of a pair
    label: str | None = None,  # a column of classes, for the report alone
    learning: Learning | None = None,
    progress: Callable[[int, int, float], None] | None = None,  # (steps done, of, mean entropy)
) -> LearnedMerge:
    """Learns the coefficients and writes the merged model's folder."""
    how = learning or Learning()
    names = check(base, tuned, unlabelled, out)
    family = open_family(base, tuned, names)
    members = dict(zip(names, family.members, strict=True))
    read = [
        texts_of(file, tuple(text), m.folder, m.config, how.max_length)
        for file, m in zip(unlabelled, family.members, strict=True)
    ]
    texts = {name: found for name, (found, _) in zip(names, read, strict=True)}
    labels = _labels(members, unlabelled, label)
    vectors = DiskVectors(family.trunk, family.tuned)
    part = out.parent / f".{out.name}.part"
    part.mkdir(parents=True, exist_ok=True)
    state = part / KEPT
    mark = mark_of(family, [base, *tuned, *unlabelled], text, how)

    def tell(found: dict[str, Tensor]) -> None:
        done = len(found["curve"])
        if done % EVERY == 0:
            checkpoint.write(state, found, {"mark": mark})
        if progress:
            progress(done, how.steps, float(found["curve"][-1].mean()))

    asked = {name: t for name, t in texts.items() if members[name].kind != "number"}
    found = adamerging(
        lambda weights, task, inputs: members[task].forward(weights, inputs),
        vectors,
        {name: t.draw(how.batch, how.seed) for name, t in asked.items()},
        {name: m.kind for name, m in members.items()},
        how.steps, how.learning_rate, how.granularity, how.init, how.plus, how.density,
        resume=resumed(state, mark),
        progress=tell,
    )  # fmt: skip
    scores = _scores(members, vectors, found, texts, labels, how)
    notes = (*family.notes, *(note for _, notes in read for note in notes), *found.notes)
    classes = {
        name: tuple(m.config.id2label[n] for n in range(m.config.num_labels))
        for name, m in members.items()
        if m.kind == "classes" and m.own
    }
    result = LearnedMerge(out, found, scores, classes, notes)
    for path in part.iterdir():
        remove(path)
    write_folder(base, family, found.weights, part)
    write_record(result, names, how, part)
    part.rename(out)
    return result


def check(
    base: Path, tuned: Sequence[Path], unlabelled: Sequence[Path], out: Path
) -> tuple[str, ...]:
    """The tasks' names, after all that can be refused at once."""
    if not tuned or len(tuned) != len(unlabelled):
        raise TaskgroveError(
            f"got {len(tuned)} tuned models and {len(unlabelled)} files of unlabelled rows; "
            "expected one file for each model, in the same order."
        )
    return names_of(base, tuned, out)


def names_of(base: Path, tuned: Sequence[Path], out: Path) -> tuple[str, ...]:
    """A name a tuned model, its folder's; refuses models given twice and a folder that exists."""
    real = [path.resolve() for path in (base, *tuned)]
    if twice := [str(p) for p in real if real.count(p) > 1]:
        raise TaskgroveError(f"{listed(sorted(set(twice)))} is given twice; give each model once.")
    if out.exists():
        raise TaskgroveError(f"{out} exists; give a folder that does not, or remove it.")
    names = tuple(folder.name for folder in tuned)
    if len(set(names)) < len(names):
        names = tuple(f"{n}-{folder.name}" for n, folder in enumerate(tuned, start=1))
    return names


def _scores(
    members: Mapping[str, Member],
    vectors: DiskVectors,
    found: AdaMerged,
    texts: Mapping[str, Texts],
    labels: Mapping[str, Tensor],
    how: Learning,
) -> Scores:
    """Accuracy of the base's trunk, the task's own, that of the first step, and the merged one."""
    scores: Scores = {task: {} for task in labels}

    def judge(what: str, task: str, weights: Mapping[str, Tensor]) -> None:
        predict = partial(members[task].forward, weights)
        right = accuracy(predict, texts[task], labels[task], how.batch)
        if right is not None:
            scores[task][what] = right

    for what, c in (("base", 0.0), ("before", how.init)) if labels else ():
        weights = ScaledMerge(vectors, "task", c, None).weights()
        for task in labels:
            judge(what, task, weights)
    for k, task in enumerate(members):
        if task in labels:
            judge("tuned", task, ScaledMerge(vectors.only([k]), "task", 1.0, None).weights())
            judge("after", task, found.weights)
    return scores


def _labels(
    members: Mapping[str, Member], files: Sequence[Path], column: str | None
) -> dict[str, Tensor]:
    if column is None:
        return {}
    pairs = zip(members.items(), files, strict=True)
    return {
        task: labels_of(file, column, member.config)
        for (task, member), file in pairs
        if member.kind == "classes" and member.own
    }


def mark_of(family: Family, places: Sequence[Path], text: Sequence[str], how: Any) -> str:
    """What a run must have in common with the state that it goes on from."""
    models = [family.base, *(member.model for member in family.members)]
    files = sorted({*(f for m in models for f in files_of(m)), *(p for p in places if p.is_file())})
    stamps = [(str(f.resolve()), f.stat().st_size, f.stat().st_mtime_ns) for f in files]
    order = [str(place.resolve()) for place in places]
    shown = json.dumps([stamps, order, list(text), asdict(how), __version__])
    return blake2b(shown.encode(), digest_size=16).hexdigest()


def resumed(state: Path, mark: str) -> dict[str, Tensor] | None:
    """The tensors of a state on disk, if it is this run's."""
    if not state.exists():
        return None
    tensors, facts = checkpoint.read(state)
    return tensors if facts["mark"] == mark else None


def remove(path: Path) -> None:
    """A file, or a folder with all that it holds."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
