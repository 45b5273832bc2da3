"""A process of its own for tests of `fit`: two ranks, and children killed at random moments.

    child_fit.py TASKS FOLDER a,b KILLS SEED
        two     one process runs each balancer (FOLDER/one), then two ranks do (FOLDER/two), and
                once for 0.6 seconds (FOLDER/seconds)
        kills   the same run in peace and under kills, then compared

Children are forked after the imports, so that a kill costs milliseconds and a rank no import;
nothing is computed before the fork, so each child is a fresh process to torch.
"""

import os
import random
import signal
import sys
import time
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file

from ranks import finished, forked, forked_ranks
from taskgrove.methods.start import new_model
from taskgrove.tasks.task_set import load_tasks
from taskgrove.training.budget import Budget
from taskgrove.training.checkpoint import read_json
from taskgrove.training.fit import fit
from taskgrove.training.options import Options

BALANCER = "uncertainty"  # it has learned state besides the model's
BUDGET = Budget(steps=60)


def run(
    tasks: Path,
    folder: Path,
    balancer: str = BALANCER,
    budget: Budget = BUDGET,
    evaluations: int = 30,
) -> None:
    torch.set_num_threads(1)
    task_set = load_tasks(tasks)
    model, _ = new_model(task_set, 0)
    options = Options(batch_size=32, evaluations=evaluations, watch=3)
    fit(
        model, task_set, budget=budget, options=options, seed=0,
        folder=folder, balancer=balancer,
    )  # fmt: skip


def kill_often(tasks: Path, folder: Path, count: int, seed: int) -> None:
    began = time.monotonic()
    if not finished(forked(partial(run, tasks, folder / "peace"))):
        raise SystemExit("the run in peace did not end")
    whole, rng = time.monotonic() - began, random.Random(seed)
    killed = 0
    while killed < count:
        child = forked(partial(run, tasks, folder / "kills"))
        time.sleep(rng.uniform(0, 1.5 * whole / count + 0.5 * whole))
        os.kill(child, signal.SIGKILL)
        if finished(child):  # it ended before its kill: begin that run anew, its kills still count
            for path in (folder / "kills").iterdir():
                path.unlink()
        else:
            killed += 1
    if not finished(forked(partial(run, tasks, folder / "kills"))):
        raise SystemExit("the last run did not end")
    peace, kills = (load_file(folder / name / "best.safetensors") for name in ("peace", "kills"))
    different = [name for name in peace if not torch.equal(peace[name], kills[name])]
    told = [read_json(folder / name / "fit.json")["history"] for name in ("peace", "kills")]
    for look in [*told[0], *told[1]]:
        del look["seconds"]
    different += [f"look {n}" for n, (a, b) in enumerate(zip(*told, strict=True)) if a != b]
    stray = {p.name.split(".out.")[0] for p in (folder / "kills").iterdir()}
    if different or stray != {"best.safetensors", "fit.json", "events"}:
        raise SystemExit(f"different: {different}; files: {sorted(stray)}")
    print(f"same weights after {killed} kills")


def each(tasks: Path, folder: Path, balancers: list[str]) -> None:
    for balancer in balancers:
        run(tasks, folder / balancer, balancer, Budget(steps=6), 2)


def two(tasks: Path, folder: Path, balancers: list[str]) -> None:
    def rank() -> None:
        each(tasks, folder / "two", balancers)
        run(tasks, folder / "seconds", "mean", Budget(seconds=0.6))

    one = forked(partial(each, tasks, folder / "one", balancers))
    forked_ranks(rank, 2)
    finished(one)


if __name__ == "__main__":
    tasks, folder, balancers, kills, seed = sys.argv[1:]
    if balancers:
        two(Path(tasks), Path(folder), balancers.split(","))
    kill_often(Path(tasks), Path(folder), int(kills), int(seed))
