"""Writes docs/balancing/: a page for each balancing method, from its own file.

    python tools/build_balancing_pages.py            writes the pages
    python tools/build_balancing_pages.py --check    exits with 1 where a page is not up to date

A page is the file's docstring as Markdown, what the method declares of itself, the command and the
lines for a loop of one's own, the figures that `bench/balancing/study.py` kept (none where it kept
none), and the source below the docstring. The same files give the same bytes.
"""

import argparse
import ast
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
from scipy import stats

from taskgrove.balancing import BALANCERS, Choice
from taskgrove.balancing.choice import Invariant
from taskgrove.methods import METHODS

ROOT = Path(__file__).parents[1]
PAGES, SOURCES = ROOT / "docs" / "balancing", ROOT / "src" / "taskgrove" / "balancing"
RESULTS = ROOT / "results"
FILES = {"sum": "mean"}  # methods without a file of their own
ARMS = {"sum": "mean", "fixed": "static"}  # their names in the study
LABELS = (
    "Symbols:", "share:", "Fall-back:", "Cost:", "Use it when", "Tuned sums do as well when",
    "Tuned sums do as well in", "Differs from the paper:", "Differs from the papers:",
)  # fmt: skip
NEEDS = {
    "nothing": "nothing: the tasks' shares and the step's number are enough",
    "losses": "the tasks' losses",
    "gramian": "the Gramian M of the task gradients, and their losses",
    "rows": "the task gradients themselves, written out as rows",
}
COMMANDS = {
    "mean": "`taskgrove compare --methods joint` (`joint` is `mean`)",
    "sum": "none: under AdamW it is nearly `joint`; it is for loops of your own",
    "fixed": "`taskgrove compare --methods joint`, with `weight:` for each task in tasks.yaml",
}
OPTIMISED = """
learned = [p for module in balancer.modules for p in module.parameters()]
optimiser.add_param_group({"params": learned, "weight_decay": 0.0})"""
AGAIN = """
optimiser.step()
balancer.observe(done.tasks, torch.stack(losses_of()))"""
GIVEN = """from dataclasses import replace

from taskgrove.balancing import BALANCERS, Balancer
from taskgrove.balancing.fixed import given

method = replace(BALANCERS["fixed"], make=given([0.5, 0.3, 0.2]))
balancer = Balancer(method, tasks=3, shared=trunk)"""
GIVEN_BY_YOU = (
    "`losses`: a scalar a task, `None` where the task is absent. `trunk`: the module that tasks"
    " share.\n"
)
GIVEN_AGAIN = "`losses_of()`: the present tasks' losses of the same batch, computed again.\n"
HEAD, MEASURED = "## In a loop of your own", "## Measured"


def page(name: str) -> str:
    """The page of a method."""
    choice, path = BALANCERS[name], SOURCES / f"{FILES.get(name, name)}.py"
    doc, source = parts(path.read_text("utf-8"))
    title, *text = doc.split("\n\n", 1)
    link = f"../../src/taskgrove/balancing/{path.name}"
    blocks = [
        f"# {escaped(title.rstrip('.'))}",
        f"In tables and commands: `{name}`. All methods: [balancing](../balancing.md).",
        *markdown("".join(text)),
        facts(name, choice),
        HEAD,
        f"```python\n{loop(name, choice)}\n```",
        GIVEN_BY_YOU
        + (GIVEN_AGAIN if choice.again else "")
        + "All else: [balancing](../balancing.md).",
        *measured(name),
        "## The source",
        f"[{path.name}]({link}), below its docstring:",
        f"```python\n{source}\n```",
        "*Written by `tools/build_balancing_pages.py`: change the source, not this page.*",
    ]
    return "\n\n".join(blocks) + "\n"


def parts(source: str) -> tuple[str, str]:
    """Docstring, and all that follows it."""
    tree = ast.parse(source)
    doc = ast.get_docstring(tree)
    assert doc is not None
    return doc, "\n".join(source.splitlines()[tree.body[0].end_lineno :]).strip("\n")


def markdown(doc: str) -> Iterator[str]:
    """Blocks of Markdown: indented lines are equations, labelled sentences begin a paragraph."""
    for equations, lines in runs(doc.splitlines()):
        if equations:
            body = "\n".join(line[4:] for line in lines).strip("\n")
            yield f"```text\n{body}\n```"
            continue
        paragraph: list[str] = []
        for line in lines:
            label = next((label for label in LABELS if line.startswith(label)), None)
            if paragraph and (label or not line):
                yield linked(paragraph)
                paragraph = []
            if line:
                text = escaped(line)
                paragraph.append(text if label is None else text.replace(label, f"**{label}**", 1))
        if paragraph:
            yield linked(paragraph)


def runs(lines: list[str]) -> Iterator[tuple[bool, list[str]]]:
    """Runs of lines, equations (indented) or not; a blank line belongs to the run before."""
    found: list[str] = []
    equations = False
    for line in lines:
        if line and line.startswith("    ") != equations:
            if any(found):
                yield equations, found
            found, equations = [], not equations
        found.append(line)
    if any(found):
        yield equations, found


def escaped(line: str) -> str:
    """A line of plain text that Markdown leaves as it is; `code` is left alone."""
    pieces = line.split("`")
    for place in range(0, len(pieces), 2):
        pieces[place] = re.sub(r"[*<]|(?<=\])\(|(?<!\w)_|_(?!\w)", r"\\\g<0>", pieces[place])
    return re.sub(r"^([-+#>]|\d+[.)])(?= )", r"\\\1", "`".join(pieces))


def linked(lines: list[str]) -> str:
    """A paragraph, its arXiv numbers as links."""
    return re.sub(
        r"arXiv\s(\d{4}\.\d{4,5})", r"[arXiv \1](https://arxiv.org/abs/\1)", "\n".join(lines)
    )


def facts(name: str, choice: Choice) -> str:
    """The table of what the method declares, and the command."""
    sees = choice.needs in ("gramian", "rows")
    exact = "1, and the batch forward once more (1/3)" if choice.again else "1"
    if sees:
        exact = "1 where each task has rows of its own; (1 + 2 K) / 3 where all K label each row"
    declared = [kind for kind in get_args(Invariant) if kind in choice.invariants]
    rows = {
        "needs": NEEDS[choice.needs],
        "declares, and tests check": ", ".join(declared),
        "a head gets": f"{'share_t' if sees else 'w_t'} times its task's own gradient",
        "passes a row": exact,
    }
    if sees and not choice.tracks:
        rows["at the features"] = "1"
    if choice.tracks:
        rows["at the features"] = "not possible: its state is as long as a row of the parameters"
    if choice.needs == "rows":
        rows["with `backward=`"] = "not possible: an ordinary backward pass cannot carry it"
    rows["on the command line"] = COMMANDS.get(name, f"`taskgrove compare --methods joint,{name}`")
    assert name in COMMANDS or name in METHODS
    lines = [f"| {what} | {said} |" for what, said in rows.items()]
    return "\n".join(["| | |", "| --- | --- |", *lines])


def loop(name: str, choice: Choice) -> str:
    """The lines of a loop of the user's own."""
    if name == "fixed":
        made = GIVEN
    else:
        told = ", numbers=[False, True, False]" if name == "uncertainty" else ""
        made = (
            "from taskgrove.balancing import Balancer\n\n"
            f'balancer = Balancer("{name}", tasks=3, shared=trunk{told})'
        )
    learns = OPTIMISED if name in ("gradnorm", "imtl_l", "uncertainty") else ""
    return f"{made}{learns}\ndone = balancer.step(losses)" + (AGAIN if choice.again else "")


def measured(name: str) -> Iterator[str]:
    """The study's figures for a method, a row a suite; nothing where there are none."""
    rows = [
        row for path in sorted(RESULTS.glob("study-balancing-*.json")) for row in row_of(name, path)
    ]
    if rows:
        yield MEASURED
        head = "| suite | steps | seeds | test score | against tuned static weights | chosen |"
        yield "\n".join([head, "| --- | --- | --- | --- | --- | --- |", *rows])
        yield (
            "Test score: the mean over tasks, times 100, of the setting that was best on validation"
            " in a few\ntrials, as many for each method. Static weights were tuned with as many."
            " +-: half of a 95 % interval over\nseeds, paired. Methods take equal steps, whatever a"
            " step costs. `python bench/balancing/study.py --table`."
        )


def row_of(name: str, path: Path) -> Iterator[str]:
    """One suite's row, where method and static weights have all their seeds."""
    kept: dict[str, Any] = json.loads(path.read_text("utf-8"))
    runs, seeds, arm = kept["runs"], kept["seeds"], ARMS.get(name, name)
    if any(f"{one}/seed {seed}" not in runs for one in (arm, "static") for seed in seeds):
        return
    mine, base = (
        100 * np.array([runs[f"{one}/seed {seed}"]["goodness"] for seed in seeds])
        for one in (arm, "static")
    )
    gap = mine - base
    against = "this is them"
    if arm != "static":
        half = stats.t.ppf(0.975, len(gap) - 1) * gap.std(ddof=1) / len(gap) ** 0.5
        against = f"{gap.mean():+.2f} +- {half:.2f}"
    first = runs[f"{arm}/seed {seeds[0]}"]
    setting = "" if len(first["setting"]) > 30 else first["setting"]
    chosen = ", ".join(filter(None, [f"rate {first['rate']:g}", setting]))
    yield (
        f"| {kept['suite']} | {kept['steps']} | {len(seeds)} | {mine.mean():.2f} | {against}"
        f" | {chosen} |"
    )


def main() -> int:
    """Writes, or checks, all pages."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing; tell what would")
    check = parser.parse_args().check
    pages = {PAGES / f"{name}.md": page(name) for name in BALANCERS}
    stale = [p for p, text in pages.items() if not p.exists() or p.read_text("utf-8") != text]
    left = [p for p in PAGES.glob("*.md") if p not in pages]
    for path in [*stale, *left]:
        print(f"{'not up to date' if check else 'written'}: {path.relative_to(ROOT)}")
    if not check:
        PAGES.mkdir(exist_ok=True)
        for path in stale:
            path.write_text(pages[path], "utf-8")
        for path in left:
            path.unlink()
    return int(check and bool(stale or left))


if __name__ == "__main__":
    sys.exit(main())
