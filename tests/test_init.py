"""`taskgrove init`: what is proposed loads, and says why."""

import io
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from taskgrove.tasks.init import propose
from taskgrove.tasks.look import look
from taskgrove.tasks.sample import sample
from taskgrove.tasks.task_set import load_tasks
from taskgrove.tasks.yaml_text import quoted
from test_tasks import sentence, write


def tickets(n=400):
    """Rows with a column for every role."""
    rng = np.random.default_rng(0)
    return [
        {
            "id": f"t{i}",
            "customer": f"c{rng.integers(80)}",
            "subject line": sentence(i)[:12],
            "body": f"{sentence(i)} and more words to read",
            "topic": None if i % 9 == 0 else ["art", "law", "no"][i % 3],
            "urgent": ["yes", "no"][i % 2],
            "stars": i % 5,
            "hours": i / 8,
            "tags": [["home"], ["home", "work"], ["work", "play"]][i % 3],
            "created": f"2024-01-{i % 28 + 1:02d}",
            "shop": "only one",
        }
        for i in range(n)
    ]


def proposed(folder, *files):
    """The proposal and the task set that it loads."""
    text = propose([folder / file for file in files], folder)
    assert all(len(line) <= 140 for line in text.splitlines())
    (folder / "tasks.yaml").write_text(text)
    return text, load_tasks(folder / "tasks.yaml")


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.csv.gz", "a.parquet", "a.jsonl", "a.json"])
def test_a_proposal_loads_from_every_format(tmp_path, name):
    write(tmp_path / name, tickets())
    text, tasks = proposed(tmp_path, name)
    kinds = {name: task.kind for name, task in tasks.tasks.items()}
    assert kinds == {
        "topic": "classes",
        "urgent": "classes",
        "stars": "classes",
        "hours": "number",
        "tags": "labels",
    }
    inputs = tasks.tables[0].inputs
    assert inputs.text == ("body",)
    assert inputs.modalities == {"text"}
    assert "key: customer" in text
    assert "id (different in every row)" in text
    assert "created (dates)" in text
    assert len(tasks.tables) == 1


def test_a_table_without_text_names_its_columns_as_inputs(tmp_path):
    rng = np.random.default_rng(0)
    rows = [
        {
            "length": rng.normal(),
            "colour": "rg"[i % 2],
            "weight": rng.normal(),
            "class": "uvw"[i % 3],
        }
        for i in range(300)
    ]
    write(tmp_path / "a.csv", rows)
    text, tasks = proposed(tmp_path, "a.csv")
    assert tasks.tables[0].inputs.numbers == ("length", "weight")
    assert tasks.tables[0].inputs.categories == ("colour",)
    assert list(tasks.tasks) == ["class"]
    assert "no text and no image" in text


def test_pictures_in_a_table_and_in_folders(tmp_path):
    for n in range(60):
        sink = io.BytesIO()
        Image.new("RGB", (4, 4), (4 * n, 0, 0)).save(sink, "PNG")
        for place in ("warm", "cold")[n % 2 :: 2]:
            (tmp_path / "my photos" / place).mkdir(parents=True, exist_ok=True)
            (tmp_path / "my photos" / place / f"{n}.png").write_bytes(sink.getvalue())
    rows = [
        {"file": f"my photos/{('warm', 'cold')[n % 2]}/{n}.png", "tone": "xy"[n % 2]}
        for n in range(60)
    ]
    write(tmp_path / "a.csv", rows)
    text, tasks = proposed(tmp_path, "a.csv", "my photos")
    assert list(tasks.tasks) == ["tone", "my photos"]
    assert tasks.tasks["my photos"].classes == ("cold", "warm")
    assert "image: file" in text


def test_image_bytes_and_a_split_column(tmp_path):
    sinks = [io.BytesIO() for _ in range(60)]
    for n, sink in enumerate(sinks):
        Image.new("L", (4, 4), 4 * n).save(sink, "PNG")
    columns = {
        "picture": [{"bytes": sink.getvalue(), "path": None} for sink in sinks],
        "label": ["xy"[n // 3 % 2] for n in range(60)],
        "split": [("train", "valid", "test")[n % 3] for n in range(60)],
    }
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    _, tasks = proposed(tmp_path, "a.parquet")
    assert list(tasks.tasks) == ["label"]
    assert tasks.tables[0].split.tolist() == [0, 1, 2] * 20


def test_files_that_are_splits_become_one_source(tmp_path):
    rows = tickets()
    write(tmp_path / "mail_train.csv", rows[:300])
    write(tmp_path / "mail_test.csv", rows[300:])
    for row in rows:
        row["customer"] = row["id"]
    write(tmp_path / "mail_train.csv", rows[:300])
    write(tmp_path / "mail_test.csv", rows[300:])
    text, tasks = proposed(tmp_path, "mail_test.csv", "mail_train.csv")
    assert "data: {train: mail_train.csv, test: mail_test.csv}" in text
    assert (tasks.tables[0].split[300:] == 2).all()


def test_several_files_name_their_tasks_apart_and_leave_out_what_does_not_fit(tmp_path):
    for name in ("movies.csv", "books.csv"):
        rows = [{"text": f"{sentence(i)} is a text", "label": "xy"[i % 2]} for i in range(100)]
        write(tmp_path / name, rows)
    write(tmp_path / "table.csv", [{"a": i / 8, "label": "xy"[i % 2]} for i in range(100)])
    text, tasks = proposed(tmp_path, "movies.csv", "books.csv", "table.csv")
    assert list(tasks.tasks) == ["movies", "books"]
    assert "# Not used: table.csv. It offers" in text
    assert "\ntext: text" in text


def test_rare_labels_are_dropped_in_the_proposal(tmp_path):
    rows = [
        {"text": f"{sentence(i)} is a text", "label": "once" if i == 50 else "xy"[i % 2]}
        for i in range(100)
    ]
    write(tmp_path / "a.csv", rows)
    text, tasks = proposed(tmp_path, "a.csv")
    assert "on_rare: drop" in text
    assert tasks.tasks["label"].classes == ("x", "y")


def test_only_the_first_rows_are_looked_at(tmp_path):
    write(tmp_path / "a.csv", tickets(100))
    assert not sample(tmp_path / "a.csv", 50).whole
    assert sample(tmp_path / "a.csv", 100).whole
    assert len(sample(tmp_path / "a.csv", 50).columns["body"]) == 50


LOOKS = {
    "number": [n / 3 for n in range(50)],
    "classes": ["a", "b", None] * 20,
    "labels": ["a;b", "b", "c;a", "c"] * 9,
    "image": ["x.jpg", "y.PNG"] * 9,
    "split": ["train", "test"] * 9,
    "text": [f"some words that are different {n}" for n in range(50)],
    "none": [None, None],
}


@pytest.mark.parametrize("role", LOOKS)
def test_the_role_of_a_column(role):
    assert look("column", LOOKS[role]).role == role


def test_odd_columns_have_no_role_or_a_safe_one():
    assert look("n", [float("nan"), float("inf"), *map(float, range(50))]).role == "none"
    assert look("user_id", [str(n // 2) for n in range(100)]).role == "key"
    assert look("userId", [str(n) for n in range(100)]).role == "none"
    assert look("row", [str(n) for n in range(5, 99)]).why == "counts the rows"
    assert look("n", [[{"a": 1}]]).role == "none"
    assert look("n", [{"a": 1}]).role == "none"
    assert look("n", [" ", ""]).role == "none"
    assert look("flag", [True, False] * 9).role == "classes"
    assert look("n", ["NA", "1.5"] + [str(n / 7) for n in range(40)]).role == "number"


def test_names_that_yaml_would_misread_are_quoted():
    words = ["a b", "no", "a: b", "1.5", "ü", "#", "x,y", "", "null", "~", "a]", '"', "- a", "Y"]
    import yaml

    for word in words:
        text = f"{{target: {quoted(word)}, {quoted(word)}: 1}}"
        assert yaml.safe_load(text) == {"target": word, word: 1}


def test_init_and_the_schema_do_without_torch():
    code = "import taskgrove.tasks.init, taskgrove.tasks.schema, sys; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
