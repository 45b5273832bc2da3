"""The command line as a demanding user tries it: results, repeats, kills, every kind of mistake."""

import csv
import io
import json
import math
import os
import re
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
from PIL import Image

import taskgrove
from command_line import call, works
from conftest import write_table
from taskgrove.backbones import BACKBONES
from taskgrove.cli import app, main
from taskgrove.cli.progress import losses_line
from taskgrove.methods import DEFAULT, METHODS
from taskgrove.methods.workplace import fitting
from taskgrove.suites import SUITES

HERE = Path(__file__).parent
TASKS = ("side", "rare", "tags", "number")
SMALL = ("--steps", 4, "--start-steps", 4)
BUDGET, BATCH = 4 * 64, 64
MERGED = {"weight_average", "task_arithmetic", "ties", "adamerging"}
COMMANDS = [c.callback.__name__.replace("_", "-") for c in app.registered_commands]
PASSING = {"created", "command", "train_seconds", "seconds"}  # differ from run to run


def results_of(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text())


def lasting(value):
    """Results without what differs from run to run."""
    if isinstance(value, dict):
        return {k: lasting(v) for k, v in value.items() if k not in PASSING}
    return [lasting(v) for v in value] if isinstance(value, list) else value


def written(folder: Path) -> dict[Path, int]:
    """Every file below a folder and when it was written."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Each test works in an empty folder."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def compared(small_tasks, tmp_path_factory):
    """The default methods on the small table; (run folder, words, what it printed)."""
    folder = tmp_path_factory.mktemp("compared") / "run"
    words = ("compare", "--tasks", small_tasks, *SMALL, "--seeds", 1, "--out", folder)
    return folder, words, works(*words)


# --- compare -------------------------------------------------------------------------------------


def test_compare_tells_and_writes_what_it_promises(compared):
    folder, words, out = compared
    results = results_of(folder)
    assert list(results["methods"]) == list(DEFAULT)
    for method in results["methods"].values():
        assert set(method["tasks"]) == set(TASKS)
        for task in method["tasks"].values():
            assert len(task["test"]) == 1
            assert math.isfinite(task["test"][0])
        assert len(method["delta_m"]) == 1
        assert len(method["passes"]) == len(method["train_seconds"]) == 1
        assert method["passes"][0] > 0
        assert method["train_seconds"][0] > 0
        assert method["trainable_parameters"] >= method["stored_parameters"] > 0
    assert results["methods"]["single"]["delta_m"] == [0.0]
    assert results["command"] == " ".join(["taskgrove", *map(str, words)])
    page = (folder / "report.html").read_text()
    for name in DEFAULT:
        assert name in out
        assert name in page


def test_compare_hands_over_a_model_in_one_line(compared, small_tasks):
    model = taskgrove.load(compared[0] / "model")
    assert tuple(model.tasks) == TASKS
    found = taskgrove.predict(model, "side", small_tasks.parent / "table.csv")
    assert found.shape == (400, 2)
    assert np.allclose(found.sum(1), 1)


def test_every_trained_method_was_given_the_same_passes(compared):
    methods = results_of(compared[0])["methods"]
    for name in set(DEFAULT) - MERGED:
        one_batch = BATCH * ((1 + 2 * len(TASKS)) / 3 if name == "pcgrad" else 1)
        assert abs(methods[name]["passes"][0] - BUDGET) <= one_batch, name
    for name in MERGED:  # the fine-tunes, and every look at validation rows
        assert methods[name]["passes"][0] >= methods["single"]["passes"][0]


def test_the_same_command_again_trains_nothing(compared):
    folder, words, out = compared
    before, results = written(folder / "work"), results_of(folder)
    assert works(*words) == out
    assert written(folder / "work") == before
    assert lasting(results_of(folder)) == lasting(results)


@pytest.mark.parametrize(
    ("changed", "names"),
    [
        (("--seeds", 2), ("seeds",)),
        (("--steps", 9), ("budget",)),
        (("--start-steps", 3, "--backbone", "mlp"), ("start_steps", "backbone")),
        (("--methods", "joint"), ("methods",)),
        (("--batch-size", 32), ("batch_size",)),
    ],
)
def test_other_settings_are_refused_and_named(compared, changed, names):
    folder, words, _ = compared
    before = written(folder)
    sentence = call(*words, *changed).sentence()
    told = re.search(r"other settings \((.*) differ\)", sentence)
    assert told is not None, sentence
    assert set(names) <= set(told[1].split(", "))
    assert str(folder) in sentence
    assert written(folder) == before


def test_other_data_are_refused(compared, tmp_path):
    _, words, _ = compared
    other = [write_table(tmp_path / "a", seed=3) if w == words[2] else w for w in words]
    assert "data" in call(*other).sentence()


@pytest.fixture(scope="module")
def peace(small_tasks, tmp_path_factory):
    """Two seeds, one after the other, undisturbed: (the words but for --out, the results)."""
    words = ("compare", "--tasks", small_tasks, *SMALL)
    words += ("--seeds", 2, "--methods", "joint,ties")
    folder = tmp_path_factory.mktemp("peace") / "run"
    works(*words, "--jobs", 1, "--out", folder)
    return words, results_of(folder)


def test_seeds_side_by_side_find_the_same(peace, tmp_path):
    words, results = peace
    works(*words, "--jobs", 2, "--out", tmp_path / "run")
    assert len(results["methods"]["joint"]["delta_m"]) == 2
    assert lasting(results_of(tmp_path / "run")) == lasting(results)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
def test_a_killed_comparison_goes_on_and_leaves_no_process(peace, tmp_path):
    words, results = peace
    command = [sys.executable, HERE / "child_compare.py", tmp_path / "run", *words]
    child = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, check=False
    )
    assert child.returncode == 0, child.stderr[-3000:]
    assert re.findall(r"processes went away", child.stdout) == ["processes went away"] * 2
    assert not (tmp_path / "run/results.json").exists()
    works(*words, "--jobs", 1, "--out", tmp_path / "run")
    assert lasting(results_of(tmp_path / "run")) == lasting(results)


def test_ctrl_c_says_that_the_same_command_goes_on(small_tasks, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("taskgrove.tasks.task_set.load_tasks", interrupted)
    answer = call("compare", "--tasks", small_tasks)
    assert answer.code == 130
    assert answer.err == "taskgrove: stopped; the same command goes on from here\n"


def test_the_command_is_kept_as_a_shell_would_read_it(tmp_path):
    tasks = write_table(tmp_path / "my tasks")
    works("compare", "-t", tasks, *SMALL, "--seeds", 1, "-m", "joint", "-o", "run")
    assert f"-t '{tasks}'" in results_of(Path("run"))["command"]


def test_names_with_brackets_and_long_paths_are_printed_as_they_are(tmp_path, monkeypatch):
    tasks = write_table(tmp_path)
    tasks.write_text(tasks.read_text().replace("  side:", '  "[/b] x/y [red]":'))
    out = Path("[bold]" + "long" * 30)
    monkeypatch.setenv("FORCE_COLOR", "1")  # as on a terminal: live bars
    printed = works("train", "joint", "-t", tasks, *SMALL, "-o", out)
    assert printed.splitlines()[-1] == f"model    {out}"
    assert printed.startswith("[/b] x/y [red]: accuracy ")
    printed = works("compare", "-t", tasks, *SMALL, "--seeds", 1, "-m", "joint", "-o", "[b]run")
    assert "\nreport   [b]run/report.html\nmodel    [b]run/model (" in printed


def test_losses_fit_beside_the_bar():
    losses = {"digits": 0.12, "noto": 1.4}
    assert losses_line(losses, 22) == "digits 0.12  noto 1.40"
    assert losses_line(losses, 21) == "loss 0.760"
    many = {f"task{n}": 1.0 + n for n in range(20)}
    assert losses_line(many, 40) == "loss 10.500, worst task19 20.000"
    assert losses_line({}, 40) == ""


# --- train ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_train_writes_a_model_folder(method, small_tasks, tmp_path):
    words = ("train", method, "--tasks", small_tasks, *SMALL, "--out", "models/mine")
    if method not in fitting(["all"], taskgrove.load_tasks(str(small_tasks)), None)[0]:
        assert "leaves no module" in call(*words).sentence()  # a small net of tables lacks these
        return
    printed = works(*words)
    assert printed.splitlines()[-1] == "model    models/mine"
    assert [line.split(":")[0] for line in printed.splitlines()[:-1]] == list(TASKS)
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["mine"]  # no work is left
    model = taskgrove.load("models/mine")
    assert tuple(model.tasks) == TASKS
    assert len(model.trunks) == (len(TASKS) if method == "single" else 1)
    found = taskgrove.predict(model, "number", small_tasks.parent / "table.csv")
    assert np.isfinite(found).all()


def test_train_makes_the_model_that_compare_measures(compared, small_tasks):
    folder, _, _ = compared
    printed = works("train", "pcgrad", "--tasks", small_tasks, *SMALL, "--out", "model")
    for task, found in results_of(folder)["methods"]["pcgrad"]["tasks"].items():
        assert re.search(rf"^{task}: \w+ {found['test'][0]:.3f} on test$", printed, re.MULTILINE)


# --- predict -------------------------------------------------------------------------------------


def read_back(path: Path) -> pa.Table:
    if path.suffix == ".jsonl":
        return pa.Table.from_pylist([json.loads(line) for line in path.read_text().splitlines()])
    return (pa.csv.read_csv if path.suffix == ".csv" else pa.parquet.read_table)(path)


def dict_rows(path: str) -> list[dict[str, str]]:
    with open(path) as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("end", ["csv", "parquet", "jsonl"])
def test_predict_classes(end, compared, small_tasks):
    rows, out = small_tasks.parent / "table.csv", Path(f"found.{end}")
    words = ("predict", compared[0] / "model", rows, "--task", "side", "--out", out)
    assert works(*words) == ""
    table = read_back(out)
    assert table.column_names == ["prediction", "p(left)", "p(right)"]
    found = np.stack([table["p(left)"], table["p(right)"]], 1)
    assert np.allclose(found.sum(1), 1, atol=1e-6)
    assert table["prediction"].to_pylist() == [("left", "right")[n] for n in found.argmax(1)]
    asked = taskgrove.predict(taskgrove.load(compared[0] / "model"), "side", rows)
    assert np.allclose(found, asked, atol=1e-6)
    first = out.read_bytes()
    works(*words, "--batch-size", 7)
    assert [path.name for path in Path().iterdir()] == [out.name]
    assert end != "csv" or read_back(out)["prediction"] == table["prediction"]
    assert end != "jsonl" or len(first.splitlines()) == 400


def test_predict_labels(compared, small_tasks):
    rows = small_tasks.parent / "table.csv"
    works("predict", compared[0] / "model", rows, "-t", "tags", "-o", "found.csv")
    found = dict_rows("found.csv")
    assert list(found[0]) == ["prediction", "p(none)", "p(p)", "p(q)"]
    for row in found:
        chosen = [name for name in ("none", "p", "q") if float(row[f"p({name})"]) >= 0.5]
        assert row["prediction"] == ";".join(chosen)


def test_predict_a_number_to_the_screen(compared, small_tasks, capfd):
    works("predict", compared[0] / "model", small_tasks.parent / "table.csv", "-t", "number")
    lines = capfd.readouterr().out.splitlines()
    assert lines[0] == '"prediction"'
    found = np.array([float(line) for line in lines[1:]])
    target = pa.csv.read_csv(small_tasks.parent / "table.csv")["number"].to_numpy()
    assert len(found) == len(target)
    assert abs(found.mean() - target.mean()) < 2 * target.std()  # in the user's unit


def test_predict_needs_no_labels_and_bears_gaps(compared):
    Path("new.csv").write_text("d,c,b,a\n1,2,3,4\n,2,3,4\n")
    works("predict", compared[0] / "model", "new.csv", "-t", "side", "-o", "found.jsonl")
    assert len(Path("found.jsonl").read_text().splitlines()) == 2


def test_predict_reads_parquet_and_jsonl_alike(compared, small_tasks):
    table = pa.csv.read_csv(small_tasks.parent / "table.csv").select(["a", "b", "c", "d"])
    pa.parquet.write_table(table, "rows.parquet")
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))
    model = taskgrove.load(compared[0] / "model")
    found = [taskgrove.predict(model, "side", f"rows.{end}") for end in ("parquet", "jsonl")]
    assert np.array_equal(*found)
    assert np.array_equal(found[0], taskgrove.predict(model, "side", table))


@pytest.fixture(scope="module")
def pictures_model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures") / "model"
    works("train", "joint", "--steps", 2, "--start-steps", 0, "--out", folder)
    return folder


def test_predict_a_folder_of_pictures(pictures_model, tmp_path):
    for name in ("b.png", "a.png", "more/c.png", ".hidden.png"):  # no folder for each class
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30), "red").save(tmp_path / "photos" / name)
    works("predict", pictures_model, "photos", "--task", "digits", "--out", "found.csv")
    found = dict_rows("found.csv")
    assert [row["file"] for row in found] == ["a.png", "b.png", "more/c.png"]
    assert list(found[0])[1:] == ["prediction", *(f"p({n})" for n in range(10))]
    (tmp_path / "photos/broken.png").write_text("no image")
    sentence = call("predict", pictures_model, "photos", "-t", "digits").sentence()
    assert '"broken.png" in row 3 of photos cannot be opened' in sentence
    Path("rows.csv").write_text("image\nphotos/a.png\nphotos/lost.png\n")
    sentence = call("predict", pictures_model, "rows.csv", "-t", "digits").sentence()
    assert '"photos/lost.png" in row 2 of rows.csv cannot be opened: there is no file' in sentence


# --- init, systems, suite, help ------------------------------------------------------------------


def test_init_then_compare(small_tasks, tmp_path):
    (tmp_path / "reviews.csv").write_text((small_tasks.parent / "table.csv").read_text())
    assert "taskgrove compare --tasks tasks.yaml" in works("init", "reviews.csv")
    works("compare", "--tasks", "tasks.yaml", *SMALL, "--seeds", 1, "--methods", "joint")
    assert (tmp_path / "runs" / tmp_path.name / "model" / "taskgrove.json").is_file()
    assert "tasks.yaml exists already" in call("init", "reviews.csv").sentence()


def test_systems_lists_all_there_is():
    listed = works("systems").split()
    assert {*METHODS, *SUITES, *BACKBONES, "minilm"} <= set(listed)


def test_suite_prints_the_tasks_file():
    assert Path(works("suite", "pictures").strip()).name == "tasks.yaml"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_help_shows_an_example(command):
    shown = works(command, "--help")
    assert re.search(rf"• taskgrove {command}\b", shown), shown
    assert "Traceback" not in shown


def test_version():
    assert works("--version").strip() == taskgrove.__version__


def test_help_answers_within_half_a_second_of_cpu():
    def cost() -> float:
        command = [sys.executable, "-m", "taskgrove", "--help"]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        with child:
            shown = child.stdout.read()
            _, status, used = os.wait4(child.pid, 0)
            child.returncode = os.waitstatus_to_exitcode(status)
        assert child.returncode == 0
        assert all(name in shown for name in COMMANDS)
        return used.ru_utime + used.ru_stime

    assert min(cost() for _ in range(3)) < 0.5


def test_a_true_process_reports_a_mistake_without_a_trace():
    command = [sys.executable, "-m", "taskgrove", "suite", "yest"]
    child = subprocess.run(command, capture_output=True, text=True, check=False)
    assert child.returncode == 2
    assert child.stdout == ""
    assert re.fullmatch(r'taskgrove: there is no suite "yest" [^\n]*\n', child.stderr)


def test_a_reader_that_stops_early_is_no_error(compared, small_tasks):
    """`taskgrove predict ... | head -1`: the pipe is closed before the rows are written."""
    reading, writing = os.pipe()
    os.close(reading)
    words = ["predict", compared[0] / "model", small_tasks.parent / "table.csv", "-t", "side"]
    before = os.dup(1)
    os.dup2(writing, 1)
    try:
        answer = call(*words)
    finally:
        os.dup2(before, 1)
        os.close(before)
        os.close(writing)
    assert answer.code == 1
    assert answer.err == ""


# --- mistakes ------------------------------------------------------------------------------------

GOOD = "--tasks", "t/tasks.yaml", *SMALL
MISTAKES = {
    "no tasks file": (
        ("compare", "-t", "t/task.yaml"),
        'does not exist.*Did you mean "t/tasks.yaml"',
    ),
    "a folder as tasks": (("compare", "-t", "t"), 'is a folder.*Did you mean "t/tasks.yaml"'),
    "no suite": (("compare", "-t", "picturs"), 'Did you mean "pictures"'),
    "no suite to build": (("suite", "yest"), 'no suite "yest".*Did you mean "yeast"'),
    "no method": (("compare", *GOOD, "-m", "joint,pcgrd"), '"pcgrd".*Did you mean "pcgrad"'),
    "no method named": (("compare", *GOOD, "-m", ","), "--methods names no method"),
    "no method to train": (("train", "jont", *GOOD, "-o", "run"), '"jont".*Did you mean "joint"'),
    "two budgets": (("compare", *GOOD, "--seconds", 9), "got steps and seconds: give one"),
    "no seeds": (("compare", *GOOD, "--seeds", 0), "seeds must be one or more"),
    "a negative seed": (("compare", *GOOD, "--seed", -1), "the seed -1"),
    "a huge seed": (("train", "joint", *GOOD, "--seed", 2**40, "-o", "run"), "the seed 1099"),
    "negative steps": (("compare", "-t", "t/tasks.yaml", "--steps", -4), "-4.0 steps"),
    "no steps": (("compare", "-t", "t/tasks.yaml", "--passes", 0), "0.0 passes"),
    "steps nan": (("compare", "-t", "t/tasks.yaml", "--steps", "nan"), "nan steps"),
    "negative start": (("compare", *GOOD, "--start-steps", -1), "start's steps are -1"),
    "no jobs": (("compare", *GOOD, "--jobs", 0), "--jobs is 0"),
    "no threads": (("compare", *GOOD, "--threads", 0), "--threads is 0"),
    "no rows a step": (("compare", *GOOD, "--batch-size", 0), "batch_size is 0"),
    "odd parts": (("compare", *GOOD, "--accumulate", 3), "multiple of accumulate"),
    "negative rate": (("compare", *GOOD, "--learning-rate", -1), "learning_rate is -1"),
    "no backbone": (("compare", *GOOD, "--backbone", "mpl"), '"mpl".*Did you mean "mlp"'),
    "no backbone to train": (
        ("train", "joint", *GOOD, "--backbone", "mpl", "-o", "run"),
        '"mpl".*Did you mean "mlp"',
    ),
    "a blind backbone": (("compare", *GOOD, "--backbone", "cnn"), '"cnn" reads "image"'),
    "a full folder": (("compare", *GOOD, "-o", "full"), "full is not empty and holds no run"),
    "a full model folder": (("train", "joint", *GOOD, "-o", "full"), "full exists and is not an"),
    "a file as folder": (("compare", *GOOD, "-o", "file"), "file cannot be written"),
    "a file as model": (
        ("train", "joint", *GOOD, "-o", "file"),
        "file exists and is not an empty",
    ),
    "below a file": (("compare", *GOOD, "-o", "file/run"), "file/run cannot be written"),
    "a model below a file": (
        ("train", "joint", *GOOD, "-o", "file/m"),
        "file/m.work cannot be written",
    ),
    "a sealed place": (("compare", *GOOD, "-o", "/proc/run"), "/proc/run cannot be written"),
    "this folder": (("train", "joint", *GOOD, "-o", "."), r"exists and is not|folder itself"),
    "an unknown key": (("compare", "-t", "key.yaml"), 'unknown key "number".*"numbers"'),
    "an unknown column": (("compare", "-t", "column.yaml"), '"sid" is not in.*Did you mean "side"'),
    "an unknown metric": (("compare", "-t", "metric.yaml"), '"acuracy".*Did you mean "accuracy"'),
    "no file to look at": (("init", "t/tabel.csv"), '"t/tabel.csv" does not exist.*"table.csv"'),
    "no place for a tasks file": (("init", "t/table.csv", "-o", "no/t.yaml"), "cannot be written"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_sentence_and_leaves_nothing(mistake, small_tasks, tmp_path):
    words, expected = MISTAKES[mistake]
    for name in ("tasks.yaml", "table.csv"):
        (tmp_path / "t").mkdir(exist_ok=True)
        (tmp_path / "t" / name).write_text((small_tasks.parent / name).read_text())
    text = (tmp_path / "t/tasks.yaml").read_text().replace("table.csv", "t/table.csv")
    Path("key.yaml").write_text(text.replace("numbers:", "number:"))
    Path("column.yaml").write_text(text.replace("target: side", "target: sid"))
    Path("metric.yaml").write_text(text.replace("target: side", "target: side, metric: acuracy"))
    Path("full").mkdir()
    Path("full/letter").write_text("mine")
    Path("file").write_text("mine")
    before = written(tmp_path)
    sentence = call(*words).sentence()
    assert re.search(expected, sentence), sentence
    assert written(tmp_path) == before
    assert not Path("runs").exists()
    assert not Path("run").exists()


PREDICT_MISTAKES = {
    "a missing column": (("rows.csv", "-t", "side"), 'column "d" is not in rows.csv'),
    "an unknown task": (("good.csv", "-t", "sides"), 'no task "sides".*Did you mean "side"'),
    "no task": (("good.csv",), 'no task was named; the model has "side"'),
    "no rows file": (("god.csv", "-t", "side"), '"god.csv" does not exist.*"good.csv"'),
    "a wrong ending": (("good.csv", "-t", "side", "-o", "found.txt"), "must end in .csv, .parquet"),
    "an unreadable ending": (("rows.xls", "-t", "side"), "unknown extension"),
    "no folder": (("good.csv", "-t", "side", "-o", "no/found.csv"), "there is no folder no"),
    "below a file": (("good.csv", "-t", "side", "-o", "good.csv/f.csv"), "no folder good.csv"),
    "the rows themselves": (("good.csv", "-t", "side", "-o", "good.csv"), "is the file of the ro"),
    "a folder": (("good.csv", "-t", "side", "-o", "dir.csv"), "dir.csv is a folder"),
    "a sealed place": (("good.csv", "-t", "side", "-o", "/proc/f.csv"), "cannot be written"),
    "no number": (("word.csv", "-t", "side"), 'row 2 of word.csv has "x" in column "d"'),
    "no rows": (("header.csv", "-t", "side"), "no rows"),
    "an empty file": (("empty.csv", "-t", "side"), "is empty"),
    "rows at a time": (("good.csv", "-t", "side", "--batch-size", 0), "--batch-size is 0"),
}


@pytest.mark.parametrize("mistake", PREDICT_MISTAKES)
def test_a_mistake_in_predict_is_one_sentence(mistake, compared, tmp_path):
    words, expected = PREDICT_MISTAKES[mistake]
    Path("rows.csv").write_text("a,b,c\n1,2,3\n")
    Path("good.csv").write_text("a,b,c,d\n1,2,3,4\n")
    Path("word.csv").write_text("a,b,c,d\n1,2,3,4\n1,2,3,x\n")
    Path("header.csv").write_text("a,b,c,d\n")
    Path("empty.csv").write_text("")
    Path("rows.xls").write_text("")
    Path("dir.csv").mkdir()
    before = written(tmp_path)
    sentence = call("predict", compared[0] / "model", *words).sentence()
    assert re.search(expected, sentence), sentence
    assert written(tmp_path) == before


def test_a_folder_that_is_no_model_is_named(compared, tmp_path):
    Path("rows.csv").write_text("a,b,c,d\n1,2,3,4\n")
    assert "nowhere is not a model folder" in call("predict", "nowhere", "rows.csv").sentence()
    assert f"{tmp_path} is not a" in call("predict", tmp_path, "rows.csv").sentence()
    hint = call("predict", compared[0], "rows.csv").sentence()
    assert f'Did you mean "{compared[0] / "model"}"?' in hint


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("comparee",), "compare"),
        (("compare", "--step", 3), "--steps"),
        (("compare", "--steps", "few"), "--steps"),
        (("compare", "--precision", "fp8"), "fp16"),
        (("train",), "method"),
        (("train", "joint"), "--out"),
    ],
)
def test_a_mistyped_command_names_what_is_meant(words, expected):
    answer = call(*words)
    assert answer.code == 2
    assert expected in answer.err
    assert "Traceback" not in answer.err


def test_a_terminal_without_stars_breaks_nothing(compared, monkeypatch):
    """The tables hold stars and triangles, which old code pages lack."""
    _, words, out = compared
    assert "★" in out
    screen = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
    monkeypatch.setattr(sys, "argv", ["taskgrove", *map(str, words)])
    with redirect_stdout(screen), pytest.raises(SystemExit) as ended:
        main()
    screen.flush()
    assert ended.value.code == 0
    assert b"delta-m" in screen.buffer.getvalue()
