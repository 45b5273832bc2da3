"""`merge --tasks`: every task before and after, judged as transformers itself would."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from command_line import call
from tiny_classifiers import WORDS, write_family


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A base encoder with a head, two tuned classifiers, and a tasks file of 60 rows each."""
    place = tmp_path_factory.mktemp("evaluation")
    write_family(place, {"base": None, "animal": ["cat", "dog"], "colour": ["red", "blue"]})
    rng, lines = np.random.default_rng(0), ["text,colour,animal,split"]
    for n in range(120):
        colour, animal = rng.choice(["red", "blue"]), rng.choice(["dog", "cat"])
        text = f"{rng.choice(WORDS)} {colour} {animal} {rng.choice(WORDS)} {rng.choice(WORDS)}"
        lines.append(f"{text},{colour},{animal},{('train', 'validation', 'test')[n % 3]}")
    (place / "rows.csv").write_text("\n".join(lines) + "\n")
    (place / "tasks.yaml").write_text(
        "data: rows.csv\ntext: text\nsplit: split\n"
        "tasks:\n  colour: {target: colour}\n  animal: {target: animal}\n"
    )
    return place


def merge(place, out, *words):
    return call(
        "merge", "task_arithmetic", "--base", place / "base", "--tuned", place / "animal",
        place / "colour", "--ignore", "classifier.*", "--scale", "0.4", "--out", out,
        "--tasks", place / "tasks.yaml", *words,
    )  # fmt: skip


def accuracy(place, task, weights):
    """Twin: transformers' own model of the task, with `weights` in place of the trunk's."""
    import csv

    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(
        place / task, dtype=torch.float32
    ).eval()
    if weights is not None:
        own = {n: w.float() for n, w in weights.items() if not n.startswith("classifier")}
        model.load_state_dict(own, strict=False)
    with (place / "rows.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "test"]
    tokens = AutoTokenizer.from_pretrained(place / task)
    inputs = tokens([row["text"] for row in rows], padding=True, return_tensors="pt")
    with torch.no_grad():
        said = model(**inputs).logits.argmax(-1).tolist()
    return np.mean(
        [model.config.id2label[k] == row[task] for k, row in zip(said, rows, strict=True)]
    )


def test_judges_as_transformers_does(place, tmp_path):
    out = tmp_path / "out"
    answer = merge(place, out)
    assert answer.code == 0, answer.err
    results = json.loads((out / "evaluation.json").read_text())
    merged = load_file(out / "model.safetensors")
    exact = load_file(place / "base/model.safetensors")
    for task in ("animal", "colour"):
        tuned = load_file(place / task / "model.safetensors")
        base = load_file(place / "base/model.safetensors")
        exact = {n: w.float() + 0.4 * (tuned[n].float() - base[n].float()) + (
            exact[n].float() - base[n].float()) for n, w in base.items()}  # fmt: skip
    trunks = {"single": None, "base": load_file(place / "base/model.safetensors"),
              "task_arithmetic": merged, "unrounded": exact}  # fmt: skip
    assert set(results["methods"]) == set(trunks)
    for who, weights in trunks.items():
        for task in ("animal", "colour"):
            found = results["methods"][who]["tasks"][task]["test"][0]
            assert found == pytest.approx(accuracy(place, task, weights)), (who, task)
    assert len({json.dumps(row["tasks"]) for row in results["methods"].values()}) > 2
    assert results["methods"]["task_arithmetic"]["coefficients"]["tasks"] == ["animal", "colour"]
    assert "Lost by rounding" in results["notes"][-1]
    assert "Lost by rounding" in answer.out
    page = (out / "report.html").read_text()
    assert "task_arithmetic" in page
    assert "encoder.<wbr>layer.<wbr>0" in page
    assert not list(tmp_path.glob(".out*"))


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ("{target: colour, classes: 3}", "unknown"),
        ("{target: split}", "outputs, the model"),
    ],
)
def test_a_task_that_is_not_the_models(place, tmp_path, task, said):
    text = f"data: {place}/rows.csv\ntext: text\ntasks:\n  animal: {task}\n"
    if "classes: 3" in task:
        text = text.replace(", classes: 3", "").replace("text: text", "numbers: [text]")
        said = "text"
    tasks = tmp_path / "tasks.yaml"
    tasks.write_text(text)
    answer = call(
        "merge", "average", "--tuned", place / "animal", place / "colour", "--ignore",
        "classifier.*", "--out", tmp_path / "out", "--tasks", tasks,
    )  # fmt: skip
    assert said in answer.err
    assert answer.code == 2
    assert not (tmp_path / "out").exists()


def test_more_tasks_than_models(place, tmp_path):
    answer = call(
        "merge", "average", "--tuned", place / "animal", "--out", tmp_path / "out",
        "--tasks", place / "tasks.yaml",
    )  # fmt: skip
    assert "expected a tuned model for each task" in answer.err
    assert not (tmp_path / "out").exists()
