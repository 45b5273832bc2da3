"""Maps: files and their errors, the pyramid's map, training with and without parts, folders."""

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from command_line import call
from taskgrove.backbones import BACKBONES
from taskgrove.backbones.maps import MapBackbone
from taskgrove.errors import TaskgroveError
from taskgrove.methods.start import new_model
from taskgrove.methods.workplace import fitting
from taskgrove.sharing.folder import load
from taskgrove.sharing.route import route
from taskgrove.sharing.table import CHOICES
from taskgrove.suites.scenes import CutOut, cells, compose, text
from taskgrove.tasks.map_files import decode_map
from taskgrove.tasks.task_set import load_tasks
from taskgrove.training.budget import Budget
from taskgrove.training.fit import fit
from taskgrove.training.options import Options


def scene(seed):
    rng = np.random.default_rng(seed)
    square = CutOut(np.full((28, 28, 3), 200, np.uint8), np.ones((28, 28), bool), 1)
    return cells(compose([square, square], rng.integers(0, 90, (64, 64, 3), np.uint8), rng))


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    splits = ["train"] * 16 + ["validation"] * 4 + ["test"] * 4
    rows = [{**scene(n), "split": split} for n, split in enumerate(splits)]
    rows[0]["depth"] = None
    pq.write_table(pa.Table.from_pylist(rows), folder / "scenes.parquet")
    (folder / "tasks.yaml").write_text(text(["square"]), "utf8")
    return folder / "tasks.yaml"


def npy(values):
    np.save(file := io.BytesIO(), np.asarray(values))
    return file.getvalue()


def test_scenes_repeat_by_seed():
    assert scene(1) == scene(1)
    assert scene(1) != scene(2)


@pytest.mark.parametrize(
    ("values", "kind", "sentence"),
    [
        (np.full((8, 8), 7), "segmentation", "class number 7, but the 3 classes are 0 to 2"),
        (np.full((8, 8, 3), 0.3), "normals", "not of length 1"),
        (np.full((8, 8), 300), "edges", "marked by 0 and 1"),
        (np.zeros((8, 8, 2)), "depth", "shape"),
    ],
)
def test_wrong_maps_are_told(values, kind, sentence):
    with pytest.raises(TaskgroveError, match=sentence):
        decode_map(npy(values), kind, 8, 3)


def test_a_missing_map_is_no_label(scenes):
    tasks = load_tasks(scenes)
    assert len(tasks.rows("depth", "train")) == len(tasks.rows("edges", "train")) - 1
    assert np.isfinite(tasks.labels["depth"].values).all()


def test_classes_belong_to_segmentations(scenes):
    wrong = scenes.with_name("wrong.yaml")
    wrong.write_text(scenes.read_text("utf8").replace("kind: depth", "kind: depth, classes: 3"))
    with pytest.raises(TaskgroveError, match="is for kind: segmentation, not for depth"):
        load_tasks(wrong)


@pytest.mark.parametrize("name", ["cnn", "pyramid"])
def test_training_learns_and_folders_repeat(scenes, tmp_path, name):
    tasks = load_tasks(scenes)
    model, _ = new_model(tasks, 0, name=name)
    if name == "pyramid":
        model.share([("*.qkv", CHOICES["lora"]())])
    record = fit(
        model, tasks, budget=Budget(steps=12), options=Options(batch_size=8, evaluations=2),
        seed=0, folder=tmp_path / "run", balancer="mean",
    )  # fmt: skip
    losses = [sum(look["loss"].values()) for look in record.history]
    assert losses[-1] < losses[0]
    model.save(tmp_path / "model")
    inputs = {"image": torch.rand(3, 3, 64, 64)}
    here = route({"depth": torch.tensor([2, 0]), "normals": torch.tensor([1])})
    again = load(tmp_path / "model").eval()
    with torch.no_grad():
        wanted, found = model.eval()(inputs, here), again(inputs, here)
    assert all(torch.equal(wanted[task], found[task]) for task in wanted)
    assert wanted["normals"].shape == (1, 3, 64, 64)
    said = call(
        "predict", tmp_path / "model", scenes.with_name("scenes.parquet"), "--task", "depth"
    )
    assert "predicts a map (depth)" in said.sentence()


@pytest.mark.parametrize("name", ["cnn", "vit", "pyramid"])
def test_maps_come_with_the_same_features(name):
    trunk = BACKBONES[name]()
    assert isinstance(trunk, MapBackbone)
    assert isinstance(trunk, torch.nn.Module)
    trunk.eval()
    inputs = {"image": torch.rand(2, 3, 32, 32)}
    features, m = trunk.with_maps(inputs)
    assert torch.equal(features, trunk(inputs))
    assert m.shape[:2] == (2, trunk.map_width)


def test_compare_scores_every_kind_of_map(scenes, tmp_path):
    said = call(
        "compare", "--tasks", scenes, "--methods", "joint", "--steps", 3, "--batch-size", 8,
        "--start-steps", 1, "--seeds", 1, "--jobs", 1, "--out", tmp_path / "run",
    )  # fmt: skip
    assert said.code == 0, said.err
    found = json.loads((tmp_path / "run" / "results.json").read_text("utf8"))
    scores = found["methods"]["joint"]["tasks"]
    assert set(scores) == {"classes", "depth", "normals", "edges", "saliency"}
    assert all(np.isfinite(scores[task]["test"]).all() for task in scores)


def test_adamerging_is_refused_by_name_and_left_out_of_groups(scenes, tmp_path):
    quick = ("--steps", 1, "--out", tmp_path / "run")
    sentence = call("compare", "--tasks", scenes, "--methods", "adamerging", *quick).sentence()
    assert "adamerging needs classes, labels or numbers" in sentence
    names, left = fitting(["default"], load_tasks(scenes), None)
    assert left == ["adamerging"]
    assert "task_arithmetic" in names
