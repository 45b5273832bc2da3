"""Cost of a draw against the number of tasks: `python bench/mixing.py`.

A draw should cost the same per row for 10 tasks and for 1,000 (each with 50 rows of its own).
The last line draws from one large table with 14 tasks on every row.
"""

from time import perf_counter

import numpy as np

from taskgrove.mixing import Labels, Mixture, proportional

BATCH = 64


def separate(tasks: int, rows: int) -> Mixture:
    """One table for each task, tasks of different rates."""
    labels = {
        f"table {t}": Labels((f"task {t}",), np.ones((rows, 1), bool), np.arange(rows))
        for t in range(tasks)
    }
    return Mixture(labels, {f"task {t}": 1.0 + t % 7 for t in range(tasks)})


def shared(tasks: int, rows: int) -> Mixture:
    """One table whose rows are labelled in full."""
    names = tuple(f"task {t}" for t in range(tasks))
    labels = {"table": Labels(names, np.ones((rows, tasks), bool), np.arange(rows))}
    return Mixture(labels, proportional(dict.fromkeys(names, rows)))


def draw_time(mixture: Mixture, steps: int) -> float:
    """Nanoseconds for each drawn row, the fastest of three runs of `steps` draws."""
    best = float("inf")
    for _ in range(3):
        begin = perf_counter()
        for step in range(mixture.step, mixture.step + steps):
            mixture.draw(step, BATCH)
        best = min(best, perf_counter() - begin)
    return best / (steps * BATCH) * 1e9


def main() -> None:
    print(f"{'tasks':>6} {'rows':>10} {'build s':>8} {'drawn':>8} {'ns per row':>11} {'ratio':>6}")
    first = None
    for tasks, rows, build in [
        (10, 50, separate),
        (100, 50, separate),
        (1_000, 50, separate),
        (14, 2_000_000, shared),
    ]:
        begin = perf_counter()
        mixture = build(tasks, rows)
        seconds = perf_counter() - begin
        cost = draw_time(mixture, steps=1_000)
        first = first or cost
        drawn = sum(mixture.counts().values()) // (tasks if build is shared else 1)
        total = rows if build is shared else tasks * rows
        print(f"{tasks:6} {total:10} {seconds:8.2f} {drawn:8} {cost:11.0f} {cost / first:6.2f}")


if __name__ == "__main__":
    main()
