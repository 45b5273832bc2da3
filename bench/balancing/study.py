"""The balancing family against tuned static weights, at an equal tuning budget.

python bench/balancing/study.py --suite pictures     runs, resumes, and keeps results/study-*.json
python bench/balancing/study.py --table              prints what is kept

Every arm gets the same number of trials on one tuning seed, judged by validation: a learning rate,
and what else the arm has to tune (a method its own constant, static weights a draw of log-normal
weights). The first trial of each arm is its default. The chosen setting is then trained on fresh
seeds and judged by the test part. All arms take equal steps, which favours arms whose steps cost
more. Nothing is chosen by test rows. The arm `mean` tunes its learning rate alone.
"""

import argparse
import json
import os
import platform
import tempfile
import time
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import t

from taskgrove.balancing import BALANCERS, Choice
from taskgrove.balancing.cagrad import cagrad
from taskgrove.balancing.choice import Setup, on_gramian
from taskgrove.balancing.fairgrad import fairgrad
from taskgrove.balancing.fixed import Fixed
from taskgrove.balancing.gradnorm import GradNorm
from taskgrove.balancing.gradvac import GradVac
from taskgrove.methods.start import new_model
from taskgrove.suites import locate
from taskgrove.tasks.task_set import TaskSet, load_tasks
from taskgrove.training.budget import Budget
from taskgrove.training.evaluate import goodness, predict, scores
from taskgrove.training.fit import fit
from taskgrove.training.options import Options

RESULTS = Path(__file__).parents[2] / "results"
STEPS = {"pictures": 200, "yeast": 250, "debtags": 60}
TRUNKS = {"debtags": "bag"}  # the others have small trunks of their own
TRIALS, TUNING_SEED, SEEDS = 3, 1000, (0, 1, 2, 3, 4)
RATES = (2e-3, 1e-3, 4e-3)  # the first is the trunk's default; the same for every arm
ARMS = ("mean", "static", *sorted(set(BALANCERS) - {"mean", "sum", "fixed"}))


def gradnorm(alpha: float, setup: Setup) -> GradNorm:
    """With a constant of its own."""
    return GradNorm(setup.tasks, alpha)


def gradvac(beta: float, setup: Setup) -> GradVac:
    """With a constant of its own."""
    return GradVac(setup.tasks, setup.seed, beta)


OWN: dict[str, list[tuple[str, Any]]] = {  # constants by trial, the first is the default
    "cagrad": [(f"c={c}", on_gramian(partial(cagrad, c=c))) for c in (0.4, 0.2, 0.7)],
    "fairgrad": [(f"alpha={a}", on_gramian(partial(fairgrad, alpha=a))) for a in (2, 1, 5)],
    "gradnorm": [(f"alpha={a}", partial(gradnorm, a)) for a in (1.5, 0.5, 1.0)],
    "gradvac": [(f"beta={b}", partial(gradvac, b)) for b in (0.01, 0.1, 0.5)],
}


def method(arm: str, trial: int, tasks: int) -> tuple[str, str | Choice]:
    """What trial `trial` of an arm trains with, in words and as a choice."""
    if arm == "static":
        weights = (
            np.exp(np.random.default_rng(trial).normal(size=tasks)) if trial else np.ones(tasks)
        )
        weights /= weights.sum()
        choice = replace(BALANCERS["fixed"], make=lambda _setup: Fixed(tuple(weights.tolist())))
        return f"weights {weights.round(3).tolist()}", choice
    if arm in OWN:
        words, make = OWN[arm][trial]
        return words, replace(BALANCERS[arm], make=make)
    return "", arm


def train(task_set: TaskSet, suite: str, arm: str, trial: int, seed: int) -> dict[str, Any]:
    """One run: its validation goodness, its test scores, its seconds."""
    words, choice = method(arm, trial, len(task_set.tasks))
    model, _ = new_model(task_set, seed, name=TRUNKS.get(suite))
    began = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        options = Options(learning_rate=RATES[trial], evaluations=4)
        record = fit(
            model, task_set, budget=Budget(steps=STEPS[suite]), options=options, seed=seed,
            folder=Path(folder), balancer=choice,
        )  # fmt: skip
    seconds = time.process_time() - began
    test = scores(task_set, "test", predict(model, task_set, "test"))
    return {
        "rate": RATES[trial], "setting": words, "validation": record.best, "seconds": seconds,
        "test": test, "goodness": goodness(task_set, test),
    }  # fmt: skip


def study(suite: str, arms: list[str]) -> None:
    """Runs what is missing; one file a suite, written after each run."""
    torch.set_num_threads(1)
    path = RESULTS / f"study-balancing-{suite}.json"
    task_set = load_tasks(locate(suite))
    kept: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.exists() else {"runs": {}}
    kept |= {
        "suite": suite, "steps": STEPS[suite], "trials": TRIALS, "tuning_seed": TUNING_SEED,
        "seeds": SEEDS, "created": time.strftime("%Y-%m-%d"), "torch": version("torch"),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
    }  # fmt: skip
    for arm in arms:
        trials = [(f"{arm}/trial {t}", t, TUNING_SEED) for t in range(TRIALS)]
        for name, trial, seed in trials:
            _run(kept, path, task_set, suite, arm, (name, trial, seed))
        found = [kept["runs"][name]["validation"] for name, *_ in trials]
        best = int(np.argmax(found))
        for seed in SEEDS:
            _run(kept, path, task_set, suite, arm, (f"{arm}/seed {seed}", best, seed))


def _run(kept: Any, path: Path, task_set: TaskSet, suite: str, arm: str, what: Any) -> None:
    name, trial, seed = what
    if name in kept["runs"]:
        return
    kept["runs"][name] = train(task_set, suite, arm, trial, seed)
    print(suite, name, round(kept["runs"][name]["goodness"], 4), flush=True)
    aside = path.with_suffix(".part")
    aside.write_text(json.dumps(kept, indent=1) + "\n", "utf-8")
    aside.rename(path)


def table() -> None:
    """Mean test goodness of each arm, and its paired difference to tuned static weights."""
    for path in sorted(RESULTS.glob("study-balancing-*.json")):
        kept: dict[str, Any] = json.loads(path.read_text("utf-8"))
        runs, seeds = kept["runs"], kept["seeds"]
        print(
            f"\n{kept['suite']}: {kept['steps']} steps, {len(seeds)} seeds, {kept['trials']} trials"
        )
        rows = []
        for arm in ARMS:
            if f"{arm}/seed {seeds[-1]}" not in runs:
                continue
            mine, base = (
                np.array([runs[f"{a}/seed {s}"]["goodness"] for s in seeds])
                for a in (arm, "static")
            )
            gap = 100 * (mine - base)
            half = t.ppf(0.975, len(gap) - 1) * gap.std(ddof=1) / len(gap) ** 0.5
            cost = np.mean([runs[f"{arm}/seed {s}"]["seconds"] for s in seeds])
            rows.append(
                (gap.mean(), half, arm, 100 * mine.mean(), cost, runs[f"{arm}/seed {seeds[0]}"])
            )
        for gap, half, arm, score, cost, run in sorted(rows, reverse=True, key=lambda row: row[0]):
            print(
                f"{arm:12} {score:6.2f}  against static {gap:+5.2f} +- {half:4.2f}  {cost:5.1f} s"
                f"  rate {run['rate']:g} {run['setting'][:40]}"
            )


def main() -> None:
    """Runs one suite or prints the table."""
    about = "The balancing family against tuned static weights"
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--suite", choices=sorted(STEPS))
    parser.add_argument("--arms", nargs="*", default=list(ARMS), choices=ARMS)
    parser.add_argument("--table", action="store_true")
    asked = parser.parse_args()
    if asked.suite:
        study(asked.suite, asked.arms)
    if asked.table or not asked.suite:
        table()


if __name__ == "__main__":
    main()
