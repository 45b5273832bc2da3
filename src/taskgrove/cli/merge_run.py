"""What `taskgrove merge` does once its options are read: plan, say, merge, judge."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from taskgrove.errors import TaskgroveError

if TYPE_CHECKING:
    from taskgrove.merging.plan import Plan, Recipe


def carry_out(
    recipe: "Recipe", out: Path | None, only_plan: bool, threads: int | None, tasks: str | None
) -> None:
    """Plans, says, merges, judges."""
    import os

    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # blocks are small; threads are ours
    from taskgrove.merging.place import check_out
    from taskgrove.merging.plan import plan
    from taskgrove.merging.stream import merge

    if threads is not None and threads < 1:
        raise TaskgroveError(f"--threads is {threads}; expected 1 or more.")
    planned = plan(recipe, threads)
    problems = [*planned.problems, *(check_out(planned, out) if out else [])]
    if only_plan:
        _say(planned, problems)
        raise typer.Exit(2 if problems else 0)
    if out is None:
        raise TaskgroveError("say where the merged model goes: --out FOLDER (or --plan to look).")
    if problems:
        raise TaskgroveError(" ".join(problems))
    judge = _judge(planned, out, tasks) if tasks else None
    for note in _notes(planned):
        print(f"note      {note}")
    with _bar() as tell:
        merge(planned, out, tell)
    print(
        f"model    {out} ({planned.written / 1e6:,.0f} MB, {recipe.method} of {len(recipe.tuned)})"
    )
    if judge is not None:
        judge()


def _judge(plan: "Plan", out: Path, tasks: str) -> Callable[[], None]:
    """Reads and checks the tasks now; judges when it is called."""
    import shlex
    import sys

    from taskgrove.cli import options as o
    from taskgrove.methods.merge_evaluation import evaluate, pairs

    loaded = o.task_set(tasks)
    pairs(plan, loaded)

    def judge() -> None:
        from rich.console import Console

        from taskgrove.measuring.console import results_table, verdict_lines

        with o.bar() as bar:
            results = evaluate(
                plan,
                out,
                loaded,
                shlex.join(["taskgrove", *sys.argv[1:]]),
                lambda what, done: bar.tell("test rows", what, done, {}),
            )
        Console().print(results_table(results))
        for line in [*verdict_lines(results), *results["notes"][-1:]]:
            print(line)
        print(f"report   {out / 'report.html'}")

    return judge


def _say(plan: "Plan", problems: list[str]) -> None:
    rows: Mapping[str, object] = {
        "method": plan.recipe.method,
        "models": len(plan.reading.tuned),
        "tensors": f"{len(plan.parameters)} merged, {len(plan.copied)} as the base has them",
        "read": f"{plan.read / 1e6:,.1f} MB in {plan.static.passes} passes",
        "write": f"{plan.written / 1e6:,.1f} MB in {len(plan.shards)} files",
        "memory": f"about {plan.memory / 2**20:,.0f} MiB, {plan.reading.threads} threads",
        "problems": len(problems) or "none",
    }
    for name, value in rows.items():
        print(f"{name:<9} {value}")
    for note in _notes(plan):
        print(f"note      {note}")
    for problem in problems:
        print(f"- {problem}")


def _notes(plan: "Plan") -> list[str]:
    """What a user should know of how the models were read."""
    from taskgrove.merging.open_model import notes_of

    models = [model for model in (plan.reading.base, *plan.reading.tuned) if model is not None]
    return list(notes_of(models))


class _bar:  # noqa: N801
    """A progress bar on a terminal, nothing elsewhere."""

    def __enter__(self) -> Callable[[str, float], None] | None:
        import sys

        self.bar = None
        if not sys.stderr.isatty():
            return None
        from taskgrove.cli.progress import Bar

        self.bar = bar = Bar()
        bar.__enter__()
        return lambda name, done: bar.tell("merge", name[-26:], done, {})

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.__exit__()
