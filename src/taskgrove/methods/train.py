"""train: one method to a model folder."""

import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from taskgrove import __version__
from taskgrove.errors import TaskgroveError, did_you_mean, listed
from taskgrove.methods import METHODS, SHARING
from taskgrove.methods.method import Job, Progress
from taskgrove.methods.start import Named, start
from taskgrove.methods.workplace import check, claim, refuse_maps
from taskgrove.sharing.sharing import Rule
from taskgrove.sharing.table import to_json
from taskgrove.tasks.task_set import TaskSet
from taskgrove.training import checkpoint
from taskgrove.training.bound import refuse
from taskgrove.training.budget import Budget
from taskgrove.training.evaluate import predict, scores
from taskgrove.training.options import Options
from taskgrove.training.processes import processes, wait


def train(
    method: str,
    task_set: TaskSet,
    out: Path,
    budget: Budget,
    options: Options,
    seed: int = 0,
    start_steps: int | None = None,
    backbone: Named = None,
    progress: Progress | None = None,
    rules: Sequence[Rule] = (),
) -> dict[str, float]:
    """Writes the model folder `out`; returns its test scores. What a kill would lose lies in
    `out`.work until the end, and a run with the same settings goes on from it."""
    if method not in METHODS:
        hint = did_you_mean(method, METHODS)
        raise TaskgroveError(
            f'there is no method "{method}"; there are {listed(METHODS, 40)}.{hint}'
        )
    if rules and method not in SHARING:
        raise TaskgroveError(
            f'"{method}" attaches no parts, so it takes no rules: choose {listed(SHARING, 20)}'
        )
    refuse_maps([method], task_set)
    attached = [rules or METHODS[method].rules] if method in SHARING else []
    check(task_set, [seed], backbone, start_steps, attached)
    if (balancer := METHODS[method].balancer) is not None:
        refuse(balancer, options)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise TaskgroveError(f"{out} exists and is not an empty folder: give another --out")
    asked = {
        "method": method,
        "seed": seed,
        "budget": {budget.unit: budget.limit},
        "options": asdict(options),
        "start_steps": start_steps,
        "backbone": backbone.__name__ if callable(backbone) else backbone,
        "data": task_set.fingerprint(),
        "rules": to_json(rules),
    }
    work = out.with_name(out.name + ".work")
    claim(work, asked)
    place, _, pretrained = start(
        task_set, work / "start", seed=seed, steps=start_steps, options=options, name=backbone,
        progress=progress,
    )  # fmt: skip
    make = backbone if callable(backbone) else None
    limit = budget.in_passes(options.batch_size)
    job = Job(task_set, place, limit, options, seed, work, pretrained, progress, make, rules)
    outcome = METHODS[method].run(job)
    found = scores(task_set, "test", predict(outcome.model, task_set, "test"))
    if processes().is_main_process:
        outcome.model.save(
            out,
            {
                "method": method,
                "seed": seed,
                "version": __version__,
                "test": checkpoint.finite(found),
                "asked": asked,
            },
        )
        shutil.rmtree(work)
    wait()
    return found
