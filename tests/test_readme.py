"""README.md does what it says: every command runs, the tasks file loads, the Python prints."""

import csv
import re
import shlex
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np
import pytest

from command_line import works
from taskgrove.methods import DEFAULT
from taskgrove.tasks.task_set import load_tasks
from tiny_classifiers import write_family

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")
QUICK = {
    "compare": ["--steps", 4, "--start-steps", 4, "--seeds", 1],
    "train": ["--steps", 4, "--start-steps", 4],
}
WORDS = {
    "food": ["soup", "warm", "bread", "fresh", "ate", "drank"],
    "room": ["large", "bed", "quiet", "clean", "towels", "bath"],
    "staff": ["kind", "desk", "helped", "bags", "smile", "polite"],
}


def blocks(language: str) -> list[str]:
    """The code blocks of a language, in order."""
    found = re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    assert found, language
    return found


def commands() -> list[list[str]]:
    lines = "".join(blocks("bash")).splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def write_reviews(path: Path, rows: int = 240) -> None:
    """Reviews whose words tell the topic; a tenth of the labels is missing."""
    rng = np.random.default_rng(0)
    with path.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["body", "author", "topic", "stars", "tags"])
        for number in range(rows):
            topic = list(WORDS)[number % 3]
            stars = int(rng.integers(1, 6))
            words = [*rng.choice(WORDS[topic], 12), "good" if stars > 3 else "bad", str(number)]
            tags = ";".join(tag for tag in ("cheap", "near", "old") if rng.random() < 0.5) or "none"
            labels = [label if rng.random() > 0.1 else "" for label in (topic, stars, tags)]
            out.writerow([" ".join(words), f"author {number % 80}", *labels])


@pytest.fixture(scope="module")
def used(tmp_path_factory):
    """A folder in which all commands of the README were run, line by line."""
    folder = tmp_path_factory.mktemp("readme")
    write_reviews(folder / "reviews.csv")
    pair = ["no", "yes"]
    write_family(folder, {"B": None, "A1": pair, "A2": pair, "A3": pair})
    for file in ("t1.csv", "t2.csv"):
        (folder / file).write_text("text\n" + "red dog runs\nblue cat\nbig dog\n" * 8)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for program, *words in commands():
            if program == "make":
                targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
                assert words[0] in targets
            else:
                assert program == "taskgrove"
                works(*words, *QUICK.get(words[0], []))
    return folder


def test_every_command_runs(used):
    assert len(commands()) >= 7
    with (used / "predictions.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 240
    assert (used / "runs/reviews/report.html").is_file()
    assert (used / "M/model.safetensors").is_file()
    assert (used / "N/coefficients.png").is_file()


def test_init_finds_the_tasks_that_the_readme_names(used):
    tasks = load_tasks(used / "tasks.yaml").tasks
    assert set(tasks) == {"topic", "stars", "tags"}
    assert (tasks["topic"].kind, tasks["tags"].kind) == ("classes", "labels")


@pytest.mark.parametrize("block", blocks("yaml"))
def test_the_tasks_file_of_the_readme_loads(used, block):
    (used / "shown.yaml").write_text(block)
    task_set = load_tasks(used / "shown.yaml")
    kinds = {name: task.kind for name, task in task_set.tasks.items()}
    assert kinds == {"topic": "classes", "stars": "number", "tags": "labels"}
    assert task_set.tasks["tags"].classes == ("cheap", "near", "none", "old")
    groups = [set(task_set.key_groups("topic", split)) for split in ("train", "test")]
    assert groups[0].isdisjoint(groups[1])  # as its comment on `key` says


@pytest.mark.parametrize("block", blocks("python"))
def test_the_python_of_the_readme_runs(used, block, monkeypatch):
    monkeypatch.chdir(used)
    printed = StringIO()
    with redirect_stdout(printed):
        exec(compile(block, "README.md", "exec"), {})
    assert len(printed.getvalue().splitlines()) == 3


def test_the_table_of_methods_is_whole():
    assert re.findall(r"^\| `(\w+)` \|", README, re.MULTILINE) == list(DEFAULT)
