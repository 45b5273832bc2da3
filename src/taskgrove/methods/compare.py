"""compare: methods at equal budget on the same rows, measured on the same test rows.

The run folder holds everything: `work/seed-s/...` what a killed run goes on from, then
`results.json`, `report.html` and `model/`, the best model by validation. Run again with the same
settings it goes on, or only measures; nothing is trained twice. Cost: one start a seed, each
trained method's budget a seed, one set of fine-tunes a seed for `single` and all merged methods
together.
"""

import shutil
from pathlib import Path
from typing import Any

import numpy as np

from taskgrove.methods import METHODS
from taskgrove.methods.parallel import run_seeds
from taskgrove.methods.results import assemble
from taskgrove.methods.seed import Tell, folder_of, run_seed
from taskgrove.methods.settings import Settings
from taskgrove.methods.workplace import check, claim, refuse_maps
from taskgrove.tasks.task_set import TaskSet
from taskgrove.training import checkpoint
from taskgrove.training.bound import refuse
from taskgrove.training.processes import processes, threads, wait


def compare(
    task_set: TaskSet,
    out: Path,
    settings: Settings,
    tell: Tell | None = None,
    *,
    jobs: int = 1,
    command: str = "",
) -> dict[str, Any]:
    """Trains, measures and writes the run folder; returns what results.json holds.

    `jobs` seeds run side by side, each in a process of its own; the results do not depend on it.
    """
    rules = [METHODS[name].rules for name in settings.all_methods if METHODS[name].rules]
    refuse_maps(settings.all_methods, task_set)
    check(task_set, settings.seeds, settings.backbone, settings.start_steps, rules)
    for name in settings.all_methods:
        if (balancer := METHODS[name].balancer) is not None:
            refuse(balancer, settings.options)
    asked = {**settings.to_json(), "tasks": task_set.name, "data": task_set.fingerprint()}
    claim(out, {name: value for name, value in asked.items() if name != "threads"})
    if jobs > 1 and len(settings.seeds) > 1:
        run_seeds(task_set, out, settings, tell, jobs)
    else:
        with threads(settings.threads):
            for seed in settings.seeds:
                run_seed(task_set, out, seed, settings, tell)
    wait()
    results = assemble(task_set, out, settings.all_methods, settings.seeds, settings.to_json())
    if processes().is_main_process:
        from taskgrove.measuring.report import write_report

        results["command"] = command
        results["best"] = _keep_best(out, results, settings)
        results = checkpoint.finite(results)
        checkpoint.write_json(out / "results.json", results)
        write_report(results, out / "report.html")
    return results


def _keep_best(out: Path, results: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """Copies the model that is best on validation: best method on average, its best seed."""
    found = {name: results["methods"][name]["goodness"] for name in settings.all_methods}
    best = max(found, key=lambda name: float(np.mean(found[name])))
    seed = settings.seeds[int(np.argmax(found[best]))]
    aside = out / ".model.part"
    shutil.rmtree(aside, ignore_errors=True)
    shutil.copytree(folder_of(out, seed) / "outcomes" / best / "model", aside)
    shutil.rmtree(out / "model", ignore_errors=True)
    aside.rename(out / "model")
    return {"method": best, "seed": seed, "folder": "model"}
