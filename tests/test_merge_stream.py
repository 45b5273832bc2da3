"""Folders merged from disk: exact, the same however they are cut, and not lost when killed."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from taskgrove.errors import TaskgroveError
from taskgrove.merging import blocks
from taskgrove.merging.checkpoint import open_checkpoint
from taskgrove.merging.in_memory import merged
from taskgrove.merging.plan import Recipe, plan
from taskgrove.merging.static.table import STATIC
from taskgrove.merging.stream import merge

BF16 = ml_dtypes.bfloat16
SHAPES = {"embed.weight": (50, 8), "layers.0.mlp.weight": (8, 24), "layers.0.norm": (8,), "s": ()}


def arrays(seed, dtype=BF16, shapes=SHAPES, spread=0.1, start=None):
    rng = np.random.default_rng(seed)
    found = {
        name: ((0 if start is None else start[name].astype("f4")) + spread * rng.normal(size=s))
        for name, s in shapes.items()
    }
    return {name: np.asarray(np.asarray(values).astype(dtype)) for name, values in found.items()}


def write(folder, tensors, shards=1, config=None):
    """A Hugging Face folder of safetensors."""
    folder.mkdir(parents=True)
    names = list(tensors)
    parts = [names[n::shards] for n in range(shards)]
    files = [f"model-{n + 1:05}-of-{shards:05}.safetensors" for n in range(shards)]
    files = files if shards > 1 else ["model.safetensors"]
    for file, part in zip(files, parts, strict=True):
        save_file({name: tensors[name] for name in part}, folder / file)
    if shards > 1:
        where = {name: file for file, part in zip(files, parts, strict=True) for name in part}
        facts = {"metadata": {}, "weight_map": where}
        (folder / "model.safetensors.index.json").write_text(json.dumps(facts))
    (folder / "config.json").write_text(json.dumps(config or {"model_type": "none"}))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "notes.pdf").write_text("not carried")
    return folder


@pytest.fixture
def folders(tmp_path):
    """A base and three tuned models."""
    base = arrays(0, spread=1.0)
    tuned = [arrays(k, start=base) for k in (1, 2, 3)]
    paths = [write(tmp_path / f"t{k}", each) for k, each in enumerate(tuned)]
    return write(tmp_path / "base", base), paths, base, tuned


def recipe(folders, method="ties", **more):
    base, tuned = folders[:2]
    return Recipe(method, tuple(map(str, tuned)), str(base), **more)


def read(folder):
    found = {}
    for file in sorted(folder.glob("*.safetensors")):
        found |= load_file(file)
    return found


def same_bits(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype, name
        assert a[name].shape == b[name].shape, name
        assert a[name].tobytes() == b[name].tobytes(), name


@pytest.mark.parametrize("method", [m for m in STATIC if not STATIC[m].beside])
def test_a_folder_merges_as_arrays_do(folders, tmp_path, method):
    folders = (folders[0], folders[1][: STATIC[method].models[1]], *folders[2:])
    merge(plan(recipe(folders, method)), tmp_path / "out")
    same_bits(read(tmp_path / "out"), merged(method, folders[2], folders[3][: len(folders[1])]))


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("shards", [1, 2, 4])
def test_threads_shards_and_pieces_do_not_matter(folders, tmp_path, monkeypatch, threads, shards):
    merge(plan(recipe(folders), threads=1), tmp_path / "plain")
    monkeypatch.setattr(blocks, "PIECE", 1)
    tuned = [write(tmp_path / f"s{k}", t, shards) for k, t in enumerate(folders[3])]
    other = (write(tmp_path / "b", folders[2], shards), tuned)
    out = tmp_path / "out"
    merge(plan(recipe(other, shard_size=300 if shards > 1 else 10**9), threads=threads), out)
    same_bits(read(out), read(tmp_path / "plain"))
    digests = [
        [i["digest"] for i in json.loads((tmp_path / f / "merge.json").read_text())["inputs"]]
        for f in ("plain", "out")
    ]
    assert digests[0] == digests[1]
    assert len(set(digests[0])) == 4


@settings(max_examples=40, deadline=None)
@given(
    shapes=st.dictionaries(
        st.text("ab.", min_size=1, max_size=3),
        st.lists(st.integers(0, 7), max_size=3).map(tuple),
        min_size=1,
        max_size=4,
    ),
    models=st.integers(1, 4),
    dtype=st.sampled_from([BF16, np.float16, np.float32, np.float64]),
    scale=st.floats(-1, 1),
    block=st.integers(1, 9),
)
def test_task_arithmetic_is_one_rounding_from_the_formula(shapes, models, dtype, scale, block):
    base = arrays(0, dtype, shapes)
    tuned = [arrays(k, dtype, shapes) for k in range(1, models + 1)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "BLOCK", block)
        found = merged("task_arithmetic", base, tuned, {"scale": scale})
    for name, theta in base.items():
        wide = theta.astype("f8")
        exact = wide + scale * sum(t[name].astype("f8") - wide for t in tuned)
        nearest = exact.astype(dtype).astype("f8")
        spacing = np.abs(np.nextafter(nearest.astype(dtype), dtype(np.inf)).astype("f8") - nearest)
        large = np.abs(wide) + sum(np.abs(t[name].astype("f8") - wide) for t in tuned)
        inside = 4 * np.finfo(np.float64 if dtype == np.float64 else np.float32).eps * large
        assert found[name].dtype == dtype
        assert (np.abs(found[name].astype("f8") - exact) <= spacing + inside).all()


def test_what_no_model_changed_keeps_its_bits():
    base = {"w": np.float32([-0.0, 1e-40, 3.0, 0.1]), "i": np.arange(3)}
    for method in ("average", "task_arithmetic", "ties"):
        found = merged(method, base, [dict(base), dict(base)])
        same_bits(found, base)


def test_files_beside_the_weights(folders, tmp_path):
    out = tmp_path / "out"
    merge(plan(recipe(folders, parameters={"density": 0.5})), out)
    names = {path.name for path in out.iterdir()}
    assert names == {
        "model.safetensors",
        "config.json",
        "tokenizer.json",
        "README.md",
        "merge.json",
    }
    assert json.loads((out / "merge.json").read_text())["parameters"] == {
        "density": 0.5, "scale": 1.0, "trim": "model",
    }  # fmt: skip
    assert "`ties`" in (out / "README.md").read_text()
    assert open_checkpoint(out).metadata == {"format": "pt"}


def test_the_stated_dtype_reaches_weights_and_config(folders, tmp_path):
    (folders[0] / "config.json").write_text('{"torch_dtype": "bfloat16"}')
    merge(plan(recipe(folders, "average", dtype="fp16")), tmp_path / "out")
    assert {t.dtype for t in read(tmp_path / "out").values()} == {np.dtype("f2")}
    assert json.loads((tmp_path / "out/config.json").read_text()) == {"torch_dtype": "float16"}


def test_no_base_is_needed_for_a_mean(folders, tmp_path):
    without = Recipe("average", tuple(map(str, folders[1])))
    merge(plan(without), tmp_path / "out")
    for name, theta in read(tmp_path / "out").items():
        mean = np.mean([t[name].astype("f4") for t in folders[3]], axis=0)
        np.testing.assert_allclose(theta.astype("f4"), mean, rtol=2**-8)


def test_rules_give_each_tensor_its_scale(folders):
    rules = {"scale": [["*.mlp.*", 0.0], ["*", 1.0]]}
    base, tuned = folders[2:]
    found = merged("task_arithmetic", base, tuned[:1], rules)
    same_bits({"m": found["layers.0.mlp.weight"]}, {"m": base["layers.0.mlp.weight"]})
    np.testing.assert_array_equal(found["layers.0.norm"], tuned[0]["layers.0.norm"])


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ([["*.mpl.*", 0.5], ["*", 1.0]], '"*.mpl.*" matches no tensor'),
        ([["*.mlp.*", 0.5]], 'matches the tensor "embed.weight"'),
        ([["*", "much"]], "scale is 'much'; expected a number or a list of numbers"),
        ([["*", [0.1, 0.2]]], "scale has 2 values; expected one for each of the 3 models"),
    ],
)
def test_rules_that_are_wrong(folders, rules, said):
    found = plan(recipe(folders, "task_arithmetic", parameters={"scale": rules}))
    assert said in " ".join(found.problems)


def test_density_cannot_vary_where_it_is_counted_over_the_model(folders):
    rules = {"density": [["*.mlp.*", 0.5], ["*", 0.1]]}
    assert "cannot differ between tensors" in plan(recipe(folders, parameters=rules)).problems[0]
    assert not plan(recipe(folders, parameters={**rules, "trim": "tensor"})).problems


CHILD = """
import sys
from pathlib import Path
from taskgrove.merging import blocks
from taskgrove.merging.plan import Recipe, plan
from taskgrove.merging.stream import merge
blocks.BLOCK = 4096
base, out, *tuned = sys.argv[1:]
def tell(name, done):
    print(name, flush=True)
merge(plan(Recipe("ties", tuple(tuned), base, shard_size=200_000), threads=2), Path(out), tell)
"""


def test_a_killed_merge_goes_on_with_the_same_bits(tmp_path):
    shapes = {f"layers.{n}.w": (100, 200 + n) for n in range(12)}
    base = arrays(0, shapes=shapes)
    tuned = [arrays(k, start=base, shapes=shapes) for k in (1, 2)]
    paths = [str(write(tmp_path / f"t{k}", t)) for k, t in enumerate(tuned)]
    command = [sys.executable, "-c", CHILD, str(write(tmp_path / "base", base))]
    child = subprocess.Popen([*command, str(tmp_path / "out"), *paths], stdout=subprocess.PIPE)
    for _ in range(5):
        child.stdout.readline()
    child.send_signal(signal.SIGKILL)
    child.communicate()
    part = tmp_path / ".out.part"
    assert not (tmp_path / "out").exists()
    done = part.joinpath("journal.jsonl").read_text().count('"tensor"')
    assert 4 <= done < 12
    ran = subprocess.run([*command, str(tmp_path / "out"), *paths], check=True, capture_output=True)
    assert len(ran.stdout.splitlines()) == 12
    assert not part.exists()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "BLOCK", 4096)
        same_bits(read(tmp_path / "out"), merged("ties", base, tuned))
    digests = json.loads((tmp_path / "out/merge.json").read_text())["inputs"]
    assert len({i["digest"] for i in digests}) == 3


def test_another_plan_does_not_go_on_with_what_was_left(folders, tmp_path):
    part = tmp_path / ".out.part"
    part.mkdir()
    (part / "journal.jsonl").write_text('{"mark": "old"}\n{"tensor": "s", "digests": []}\n')
    (part / "stale.txt").write_text("x")
    merge(plan(recipe(folders)), tmp_path / "out")
    same_bits(read(tmp_path / "out"), merged("ties", *folders[2:]))
    assert not (tmp_path / "out/stale.txt").exists()


def test_a_full_disk_is_one_sentence_and_leaves_nothing(folders, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(TaskgroveError, match="is full: the result needs"):
        merge(plan(recipe(folders)), tmp_path / "out")
    assert not list(tmp_path.glob("*out*"))


def test_too_little_room_is_seen_before_any_work(folders, tmp_path, monkeypatch):
    from collections import namedtuple

    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("taskgrove.merging.place.shutil.disk_usage", lambda _: usage(9, 9, 0))
    with pytest.raises(TaskgroveError, match="0 bytes free"):
        merge(plan(recipe(folders)), tmp_path / "out")
    assert not list(tmp_path.glob("*out*"))


def test_memory_does_not_grow_with_the_model(tmp_path):
    """A child merges 64 MB models; what it holds stays near what Python and numpy need."""
    shapes = {f"w{n}": (1000, 4000) for n in range(8)}
    base = arrays(0, shapes=shapes)
    paths = [str(write(tmp_path / "base", base))]
    paths += [str(write(tmp_path / f"t{k}", arrays(k, start=base, shapes=shapes))) for k in (1, 2)]
    code = (
        "import sys, resource\nfrom pathlib import Path\n"
        "from taskgrove.merging.plan import Recipe, plan\n"
        "from taskgrove.merging.stream import merge\n"
        "p = plan(Recipe('ties', tuple(sys.argv[3:]), sys.argv[2]), threads=2)\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "merge(p, Path(sys.argv[1]))\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "out"), *paths],
        check=True, capture_output=True, text=True, env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
    )  # fmt: skip
    assert int(ran.stdout) < 120 * 1024  # KiB, while the three models have 192 MB


def test_nothing_heavy_is_imported(folders, tmp_path):
    base, tuned = folders[:2]
    code = (
        "import sys; from taskgrove.cli import main\n"
        "try: main()\n"
        "finally: print([m for m in ('torch', 'transformers', 'scipy', 'pyarrow',"
        " 'jaxtyping') if m in sys.modules], file=sys.stderr)\n"
    )
    words = ["merge", "ties", "--base", str(base), "--tuned", *map(str, tuned)]
    ran = subprocess.run(
        [sys.executable, "-c", code, *words, "--out", str(tmp_path / "out")],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert ran.stderr.strip() == "[]"
    assert Path(tmp_path / "out/model.safetensors").is_file()
