"""Does a training step cost more with more tasks? 64 to 1,000 synthetic tasks of 50 rows each.

    python bench/tasks.py

The batch stays at 64 rows, so a step meets at most 64 tasks whatever their number. Two shapes: all
tasks in one table, and a file for each task. A line a case: CPU milliseconds a step (median of
parts), memory of the process at the end less that at the start of the loop, and both as ratios to
64 tasks.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

STEPS, PART, ROWS = 400, 50, 50


def write(folder: Path, tasks: int, own: bool) -> Path:
    """A tasks file over one table, or over one Parquet file a task."""
    import numpy as np
    import pyarrow as pa
    from pyarrow import parquet

    rng = np.random.default_rng(0)
    names = [f"x{n}" for n in range(8)]
    lines = [f"numbers: [{', '.join(names)}]", "on_rare: drop", "tasks:"]
    X = rng.normal(size=(tasks * ROWS, 8))
    label = np.where(X @ rng.normal(size=8) > 0, "a", "b").tolist()
    columns = {name: X[:, n] for n, name in enumerate(names)}
    for task in range(tasks):
        mine = slice(task * ROWS, (task + 1) * ROWS)
        if own:
            part = {name: column[mine] for name, column in columns.items()}
            parquet.write_table(pa.table({**part, "y": label[mine]}), folder / f"{task}.parquet")
            lines.append(f"  t{task}: {{data: {task}.parquet, target: y}}")
        else:
            lines.append(f"  t{task}: {{target: t{task}}}")
    if not own:
        for task in range(tasks):
            here = [None] * (task * ROWS) + label[task * ROWS : (task + 1) * ROWS]
            columns[f"t{task}"] = pa.array(here + [None] * (len(label) - len(here)), pa.string())
        parquet.write_table(pa.table(columns), folder / "all.parquet")
        lines.insert(0, "data: all.parquet")
    (folder / "tasks.yaml").write_text("\n".join(lines))
    return folder / "tasks.yaml"


def measure(tasks: int, own: bool) -> dict[str, float]:
    """CPU milliseconds a step and the loop's memory, in this process."""
    import torch

    from taskgrove.balancing import BALANCERS
    from taskgrove.methods.start import new_model
    from taskgrove.tasks.task_set import load_tasks
    from taskgrove.training.batch import feed
    from taskgrove.training.mixtures import drawn, rates_of, training_mixture
    from taskgrove.training.optimiser import adamw, groups_of
    from taskgrove.training.options import Options
    from taskgrove.training.step import Stepper, take_step

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        began = time.process_time()
        task_set = load_tasks(write(Path(folder), tasks, own))
        loaded = time.process_time() - began
    model, _ = new_model(task_set, 0)
    source, balancer, options = (
        feed(task_set, list(model.tasks)),
        BALANCERS["mean"]([], 0),
        Options(),
    )
    optimiser = adamw(model.train(), balancer, options, pretrained=False)
    for group in optimiser.param_groups:
        group["lr"] = 1e-4
    stepper = Stepper(
        model,
        source,
        balancer,
        optimiser,
        groups_of(optimiser),
        torch.amp.GradScaler(enabled=False),
        options,
    )
    mixture = training_mixture(task_set, source, 0, rates_of(task_set))
    times = []
    for step in range(STEPS):
        if step % PART == 0:
            start = time.process_time()
        take_step(stepper, *drawn(mixture, step, 64), step)
        if step == PART - 1:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        if step % PART == PART - 1:
            times.append((time.process_time() - start) / PART * 1000)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    heads = sum(p.numel() for p in model.heads.parameters())
    return {
        "ms": sorted(times[1:])[len(times) // 2],
        "growth": (after - before) / 1024,
        "heads": heads * 4 * 3 / 2**20,  # weights and two moments
        "load": loaded,
    }


def main() -> None:
    if len(sys.argv) > 1:
        print(json.dumps(measure(int(sys.argv[1]), sys.argv[2] == "own")))
        return
    for shape in ("one", "own"):
        base = None
        for tasks in (64, 250, 1000):
            done = subprocess.run(
                [sys.executable, __file__, str(tasks), shape],
                capture_output=True,
                text=True,
                check=True,
            )
            found = json.loads(done.stdout)
            base = base or found["ms"]
            print(
                f"{shape:<4} {tasks:>5} tasks: {found['ms']:6.2f} CPU ms a step"
                f" (x {found['ms'] / base:.2f}), loop +{found['growth']:.1f} MiB,"
                f" heads with moments {found['heads']:.2f} MiB, load {found['load']:.1f} s"
            )


if __name__ == "__main__":
    main()
