"""Model folders: exact, plain about damage, never unpickled, and open to other tools."""

import json
import pickle
import re
import shutil
from pathlib import Path

import datasets
import numpy as np
import pyarrow.csv
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoTokenizer

import taskgrove
from command_line import call, works
from taskgrove.errors import TaskgroveError
from test_backbones import small_bert

QUICK = ("--steps", 2, "--start-steps", 2)


@pytest.fixture(scope="module")
def trained(small_tasks, tmp_path_factory):
    """A model folder with one trunk and one with several."""
    folder = tmp_path_factory.mktemp("trained")
    for method in ("joint", "single"):
        works("train", method, "--tasks", small_tasks, *QUICK, "--out", folder / method)
    return folder


@pytest.fixture
def copied(trained, tmp_path):
    """A model folder of the test's own."""
    return Path(shutil.copytree(trained / "joint", tmp_path / "model"))


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return small_bert(tmp_path_factory.mktemp("bert"))


def told(folder: Path) -> str:
    """The sentence that loading a folder earns, the same in Python and at the command line."""
    with pytest.raises(TaskgroveError) as caught:
        taskgrove.load(folder)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert call("predict", folder, "rows.csv", "-t", "side").sentence() == sentence
    return sentence


# --- saved == loaded -----------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["joint", "single"])
def test_saved_is_loaded_bit_for_bit(method, trained, small_tasks, tmp_path):
    model = taskgrove.load(trained / method)
    assert len(model.trunks) == (4 if method == "single" else 1)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():  # values that no file has held so far
            parameter.add_(torch.randn_like(parameter))
    model.save(tmp_path / "again", {"note": "mine"})
    again = taskgrove.load(tmp_path / "again")
    before, after = model.state_dict(), again.state_dict()
    assert before.keys() == after.keys()
    for name, value in before.items():
        assert torch.equal(value, after[name]), name
        assert value.dtype == after[name].dtype
    assert (again.tasks, again.trunk_of) == (model.tasks, model.trunk_of)
    assert again.inputs == model.inputs
    for task in model.tasks:
        rows = small_tasks.parent / "table.csv"
        found = [taskgrove.predict(m, task, rows) for m in (model, again)]
        assert np.array_equal(*found)
    assert json.loads((tmp_path / "again/taskgrove.json").read_text())["facts"] == {"note": "mine"}


def test_loading_leaves_the_generator_alone(trained):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    taskgrove.load(trained / "joint").save(trained.parent / "other" / "model")
    assert torch.equal(torch.get_rng_state(), before)


def test_a_save_replaces_a_model_and_nothing_else(trained, tmp_path, monkeypatch):
    model = taskgrove.load(trained / "joint")
    (tmp_path / "home").mkdir()
    (tmp_path / "home/letter").write_text("mine")
    monkeypatch.chdir(tmp_path / "home")
    for place in (tmp_path / "home", ".", tmp_path / "home/letter"):
        with pytest.raises(TaskgroveError, match="is no model folder"):
            model.save(place)
    assert [path.name for path in (tmp_path / "home").iterdir()] == ["letter"]
    (tmp_path / ".model.part").mkdir()  # as a kill leaves it
    (tmp_path / ".model.part/heads.safetensors").write_text("half")
    for note in (1, 2):
        model.save(tmp_path / "model", {"note": note})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "model"]
    assert json.loads((tmp_path / "model/taskgrove.json").read_text())["facts"] == {"note": 2}


# --- damage --------------------------------------------------------------------------------------


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def changed(path: Path, **fields) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def without(path: Path, field: str) -> None:
    whole = json.loads(path.read_text())
    del whole[field]
    path.write_text(json.dumps(whole))


def of_another_model(path: Path) -> None:
    weights = load_file(path)
    save_file({name: value[:1].clone() for name, value in weights.items()}, path)


DAMAGE = {
    "heads cut off": (lambda f: cut(f / "heads.safetensors"), "heads.safetensors is not a whole"),
    "heads of nothing": (lambda f: (f / "heads.safetensors").write_bytes(b""), "heads.safetensors"),
    "no heads": (lambda f: (f / "heads.safetensors").unlink(), "heads.safetensors is not a whole"),
    "heads of another": (
        lambda f: of_another_model(f / "heads.safetensors"),
        r"heads.safetensors is not a whole.*size mismatch",
    ),
    "backbone cut off": (
        lambda f: cut(f / "backbone/model.safetensors"),
        r"backbone/model.safetensors cannot be read",
    ),
    "backbone of another": (
        lambda f: of_another_model(f / "backbone/model.safetensors"),
        r"backbone/model.safetensors is of another model",
    ),
    "no backbone": (lambda f: shutil.rmtree(f / "backbone"), "backbone is not a saved backbone"),
    "no weights": (
        lambda f: (f / "backbone/model.safetensors").unlink(),
        "backbone/model.safetensors cannot be read",
    ),
    "JSON cut off": (lambda f: cut(f / "taskgrove.json"), "taskgrove.json cannot be read"),
    "no JSON": (lambda f: (f / "taskgrove.json").write_bytes(b"\xff\x00"), "taskgrove.json cannot"),
    "a list": (lambda f: (f / "taskgrove.json").write_text("[]"), "taskgrove.json has format None"),
    "a newer format": (
        lambda f: changed(f / "taskgrove.json", format=2),
        "has format 2, this taskgrove reads 1: upgrade taskgrove",
    ),
    "no tasks": (lambda f: without(f / "taskgrove.json", "tasks"), "damaged .*tasks"),
    "no inputs": (lambda f: changed(f / "taskgrove.json", inputs={}), "damaged .*side"),
    "tasks of text": (lambda f: changed(f / "taskgrove.json", tasks="side"), "damaged"),
    "a trunk too many": (
        lambda f: changed(f / "taskgrove.json", trunk_of={"side": 10**9}),
        "damaged .*trunk_of",
    ),
    "no trunks": (lambda f: changed(f / "taskgrove.json", trunk_of={}), "damaged .*trunk_of"),
    "backbone JSON cut off": (
        lambda f: cut(f / "backbone/taskgrove_backbone.json"),
        "backbone/taskgrove_backbone.json is damaged",
    ),
    "a newer backbone": (
        lambda f: changed(f / "backbone/taskgrove_backbone.json", format=2),
        "format 2.*upgrade taskgrove",
    ),
    "backbone without arguments": (
        lambda f: without(f / "backbone/taskgrove_backbone.json", "arguments"),
        "damaged .*arguments",
    ),
    "backbone with odd arguments": (
        lambda f: changed(f / "backbone/taskgrove_backbone.json", arguments={"spec": 3}),
        "damaged",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_told_in_one_sentence(damage, copied):
    change, expected = DAMAGE[damage]
    change(copied)
    sentence = told(copied)
    assert re.search(expected, sentence), sentence
    assert str(copied) in sentence


# --- nothing is executed -------------------------------------------------------------------------


class Bomb:
    """Touches a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


@pytest.fixture
def bomb(tmp_path):
    """(a .pt file that would execute code, the file that the code makes), known to go off."""
    path, marker = tmp_path / "bomb.pt", tmp_path / "executed"
    torch.save({"weights": Bomb(marker)}, path)
    torch.load(path, weights_only=False)
    assert marker.exists()
    marker.unlink()
    pickle.loads(pickle.dumps(Bomb(marker)))
    assert marker.exists()
    marker.unlink()
    return path, marker


@pytest.mark.parametrize("place", ["heads.safetensors", "backbone/model.safetensors"])
def test_a_pickle_in_the_place_of_weights_is_never_executed(place, copied, bomb):
    path, marker = bomb
    shutil.copy(path, copied / place)
    assert place in told(copied)
    assert not marker.exists()


def test_a_pickled_transformer_is_never_executed(bert, bomb, tmp_path):
    path, marker = bomb
    folder = Path(shutil.copytree(bert, tmp_path / "bert"))
    (folder / "model.safetensors").unlink()
    shutil.copy(path, folder / "pytorch_model.bin")
    words = ("--tasks", text_tasks(tmp_path / "text"), *QUICK, "--out", tmp_path / "out")
    sentence = call("train", "joint", *words, "--backbone", folder).sentence()
    assert "pickled weights are never opened" in sentence
    shutil.copy(path, folder / "model.safetensors")
    assert "model.safetensors" in call("train", "joint", *words, "--backbone", folder).sentence()
    assert not marker.exists()
    assert not (tmp_path / "out").exists()


def test_the_code_of_a_transformers_folder_is_never_executed(bert, tmp_path):
    folder, marker = Path(shutil.copytree(bert, tmp_path / "bert")), tmp_path / "executed"
    (folder / "own.py").write_text(f"open({str(marker)!r}, 'w')\n")
    own = {"AutoConfig": "own.Config", "AutoModel": "own.Model"}
    changed(folder / "config.json", model_type="own", auto_map=own)
    words = ("--tasks", text_tasks(tmp_path / "text"), *QUICK, "--out", tmp_path / "out")
    assert "config.json" in call("train", "joint", *words, "--backbone", folder).sentence()
    assert not marker.exists()


# --- other tools ---------------------------------------------------------------------------------


def text_tasks(folder: Path, rows: int = 60) -> Path:
    folder.mkdir(parents=True)
    words, rng = ["red", "green", "blue", "is", "not"], np.random.default_rng(0)
    lines = ["text,colour,count"]
    for number in range(rows):
        chosen = rng.choice(words, 3 + number % 5)
        lines.append(f"{' '.join(chosen)} {words[number % 3]},{words[number % 3]},{len(chosen)}")
    (folder / "rows.csv").write_text("\n".join(lines) + "\n")
    (folder / "tasks.yaml").write_text(
        "data: rows.csv\ntext: text\ntasks:\n"
        "  colour: {target: colour}\n  count: {target: count, kind: number}\n"
    )
    return folder / "tasks.yaml"


def test_a_trained_transformer_opens_in_transformers(bert, tmp_path):
    out, tasks = tmp_path / "out", text_tasks(tmp_path / "text")
    works("train", "joint", "--tasks", tasks, "--steps", 2, "--backbone", bert, "--out", out)
    theirs = AutoModel.from_pretrained(out / "backbone").eval()
    tokens = AutoTokenizer.from_pretrained(out / "backbone")
    ours = taskgrove.load(out)
    texts = ["red is not blue", "green"]
    batch = tokens(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = theirs(**batch)[0]
        mask = batch["attention_mask"][..., None]
        features = (hidden * mask).sum(1) / mask.sum(1)
        trunk = ours.trunk("colour")
        assert torch.allclose(features, trunk(trunk.prepare({"text": texts})), atol=1e-6)
        logits = ours.head("colour")(features)
    found = taskgrove.predict(ours, "colour", pyarrow.table({"text": texts}))
    assert np.allclose(logits.softmax(-1).numpy(), found, atol=1e-6)
    untrained = AutoModel.from_pretrained(bert).state_dict()
    assert any(not torch.equal(v, untrained[name]) for name, v in theirs.state_dict().items())


def rows_of(small_tasks: Path, count: int, start: int) -> datasets.Dataset:
    """Some rows of the small table, with its classes as Hugging Face codes them."""
    table = pyarrow.csv.read_csv(small_tasks.parent / "table.csv").slice(start, count)
    columns = {name: table[name].to_pylist() for name in ("a", "b", "c", "d", "number")}
    columns["side"] = [int(name == "right") for name in table["side"].to_pylist()]
    features = dict.fromkeys(columns, datasets.Value("float32"))
    features["side"] = datasets.ClassLabel(names=["left", "right"])
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


@pytest.mark.parametrize("layout", ["saved", "parquet"])
def test_a_dataset_folder_of_hugging_face_is_data(layout, small_tasks, tmp_path):
    parts = {"train": (0, 250), "validation": (250, 75), "test": (325, 75)}
    rows = datasets.DatasetDict(
        {split: rows_of(small_tasks, count, start) for split, (start, count) in parts.items()}
    )
    if layout == "saved":
        rows.save_to_disk(tmp_path / "rows")
    else:
        for split, part in rows.items():
            part.to_parquet(tmp_path / f"rows/data/{split}-00000-of-00001.parquet")
    (tmp_path / "tasks.yaml").write_text(
        "data: rows\nnumbers: [a, b, c, d]\ntasks:\n"
        "  side: {target: side}\n  number: {target: number, kind: number}\n"
    )
    run = tmp_path / "run"
    words = ("--tasks", tmp_path / "tasks.yaml", *QUICK, "--seeds", 1, "--methods", "joint")
    works("compare", *words, "--out", run)
    results = json.loads((run / "results.json").read_text())
    counts = {split: count for split, (_, count) in parts.items()}
    assert results["tasks"]["side"]["rows"] == counts
    model = taskgrove.load(run / "model")
    assert model.tasks["side"].classes == ("left", "right")
    works("predict", run / "model", tmp_path / "rows", "-t", "side", "-o", tmp_path / "found.csv")
    assert pyarrow.csv.read_csv(tmp_path / "found.csv").num_rows == 400
