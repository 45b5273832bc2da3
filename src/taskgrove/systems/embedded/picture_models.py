"""The library's own fine-tunes of a small CNN on the embedded pictures, and their merges.

As in `taskgrove compare`: a start that all six tasks trained together, then a trunk and head a task
(methods/single), merged by methods/merged. AdaMerging's unlabelled inputs are the validation
part's. A seed's fine-tunes are kept in the user's cache, named by a digest of the code.
"""

from collections.abc import Callable
from functools import cache
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch

import taskgrove
from taskgrove.merging.learned.task_vector import apply
from taskgrove.methods.merged import adaptive, arithmetic, average, merged_outcome, task_vectors
from taskgrove.methods.method import Job, Outcome
from taskgrove.methods.single import fine_tunes, heads_of, single
from taskgrove.methods.start import start
from taskgrove.suites import locate
from taskgrove.tasks.cache import cache_folder
from taskgrove.tasks.task_set import TaskSet, load_tasks
from taskgrove.training.budget import Budget
from taskgrove.training.evaluate import predict, scores
from taskgrove.training.options import Options

OPTIONS = Options(batch_size=32, evaluations=2)
QUICK = Options(batch_size=8, evaluations=1, validation_rows=8)
# quick or not: steps of the start, of all fine-tunes, of AdaMerging
STEPS = {True: (2, 6, 2), False: (300, 600, 40)}
ROOT = Path(taskgrove.__file__)
CODE = ("backbones", "methods", "sharing", "tasks", "training")


def _fixed(job: Job, scale: float) -> Outcome:
    """Task arithmetic at a scale that nothing chose."""
    tuned = fine_tunes(job)
    model = heads_of(job, tuned)
    base, tau = task_vectors(model, tuned)
    merged = {name: base[name].float() + scale * each.sum(0) for name, each in tau.items()}
    model.trunks[0].load_state_dict(apply(base, merged))
    return merged_outcome(model, tuned, 0.0, 0.0)


WAYS: dict[str, Callable[[Job, int, float], Outcome]] = {  # the numbers: AdaMerging's course
    "zero_shot": lambda job, *_: _fixed(job, 0.0),  # the start's trunk under the tuned heads
    "individual": lambda job, *_: single(job),
    "average": lambda job, *_: average(job),
    "arithmetic_0.3": lambda job, *_: _fixed(job, 0.3),
    "arithmetic_best": lambda job, *_: arithmetic(job),
    "layer_wise": lambda job, steps, rate: adaptive(job, steps, learning_rate=rate),
}


def run(arm: str, seed: int, quick: bool, rate: float) -> dict[str, Any]:
    """{test: {task: %}, mean, scales, coefficients, notes} of an arm and seed."""
    task_set = _pictures()
    folder = cache_folder() / f"picture-models-{_mark(quick)}-{seed}"
    (first, budget, learned), options = STEPS[quick], QUICK if quick else OPTIONS
    place, _, pretrained = start(
        task_set, folder / "start", seed=seed, steps=first, options=options
    )
    limit = Budget(steps=budget).in_passes(options.batch_size)
    job = Job(task_set, place, limit, options, seed, folder, pretrained)
    outcome = WAYS[arm](job, learned, rate)
    found = scores(task_set, "test", predict(outcome.model, task_set, "test"))
    test = {task: 100 * score for task, score in found.items()}
    told = {"scales": outcome.scales, "coefficients": outcome.coefficients, "notes": outcome.notes}
    return {"test": test, "mean": sum(test.values()) / len(test), **told}


@cache
def _pictures() -> TaskSet:
    return load_tasks(locate("pictures"))


@cache
def _mark(quick: bool) -> str:
    digest, root = blake2b(f"{quick} {torch.__version__}".encode(), digest_size=12), ROOT.parent
    files = [path for part in CODE for path in (root / part).rglob("*.py")]
    for path in (*sorted(files), Path(__file__)):
        digest.update(path.read_bytes())
    return digest.hexdigest()
