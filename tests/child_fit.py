"""A process of its own for tests of `fit`: kills children at random moments, or takes part in
torchrun.

    child_fit.py TASKS FOLDER KILLS SEED      the same run in peace and under kills, then compared
    child_fit.py TASKS FOLDER --seconds S     one run of S seconds, any number of processes
    child_fit.py TASKS FOLDER --once a,b      a run for each balancer, any number of processes

Children are forked after the imports, so that a kill costs milliseconds; nothing is computed
before the fork, so each child is a fresh process to torch.
"""

import os
import random
import signal
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import load_file

from taskgrove.methods.start import new_model
from taskgrove.tasks.task_set import load_tasks
from taskgrove.training.budget import Budget
from taskgrove.training.checkpoint import read_json
from taskgrove.training.fit import fit
from taskgrove.training.options import Options

BALANCER = "uncertainty"  # it has learned state besides the model's


def run(
    tasks: Path,
    folder: Path,
    balancer: str = BALANCER,
    steps: int = 60,
    budget: Budget | None = None,
) -> None:
    torch.set_num_threads(1)
    task_set = load_tasks(tasks)
    model, _ = new_model(task_set, 0)
    options = Options(batch_size=32, evaluations=30, watch=3)
    fit(
        model, task_set, budget=budget or Budget(steps=steps), options=options, seed=0,
        folder=folder, balancer=balancer,
    )  # fmt: skip


def forked(tasks: Path, folder: Path) -> int:
    child = os.fork()
    if child == 0:
        try:
            run(tasks, folder)
            os._exit(0)
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
    return child


def finished(child: int) -> bool:
    _, status = os.waitpid(child, 0)
    if status and not (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL):
        raise SystemExit(f"a child failed with status {status}")
    return status == 0


def kill_often(tasks: Path, folder: Path, count: int, seed: int) -> None:
    began = time.monotonic()
    if not finished(forked(tasks, folder / "peace")):
        raise SystemExit("the run in peace did not end")
    whole, rng = time.monotonic() - began, random.Random(seed)
    killed = 0
    while killed < count:
        child = forked(tasks, folder / "kills")
        time.sleep(rng.uniform(0, 1.5 * whole / count + 0.5 * whole))
        os.kill(child, signal.SIGKILL)
        if finished(child):  # it ended before its kill: begin that run anew, its kills still count
            for path in (folder / "kills").iterdir():
                path.unlink()
        else:
            killed += 1
    if not finished(forked(tasks, folder / "kills")):
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


if __name__ == "__main__":
    tasks, folder, third, fourth = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4]
    if third == "--seconds":
        run(tasks, folder, "mean", budget=Budget(seconds=float(fourth)))
    elif third == "--once":
        for balancer in fourth.split(","):
            run(tasks, folder / balancer, balancer, steps=12)
    else:
        kill_often(tasks, folder, int(third), int(fourth))
