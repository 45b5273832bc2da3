"""PyTorch's pickles read as models: the same numbers, no code run, one sentence for the rest."""

import json
import pickle
from collections import OrderedDict

import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from command_line import call
from taskgrove.errors import TaskgroveError
from taskgrove.merging.fit import whole
from taskgrove.merging.open_model import files_of, notes_of, open_model
from taskgrove.merging.plan import Recipe, plan
from taskgrove.merging.stream import merge

DTYPES = [
    torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn,
    torch.float8_e5m2, torch.int64, torch.int8, torch.uint8, torch.bool, torch.uint16,
]  # fmt: skip
NEW = ("uint16", "float8_e4m3fn", "float8_e5m2")  # that torch's old format never had


def tensors(seed=0):
    g = torch.Generator().manual_seed(seed)
    numbers = torch.randn(3, 4, generator=g) * 2
    return {str(dtype).removeprefix("torch."): numbers.to(dtype) for dtype in DTYPES}


def numbers_of(model):
    return {
        name: np.array(whole(model, name)).reshape(entry.shape)
        for name, entry in model.entries.items()
    }


def folder_of(place, state, shards=1):
    """As transformers saved models before safetensors."""
    place.mkdir(parents=True)
    (place / "config.json").write_text('{"model_type": "none"}')
    if shards == 1:
        torch.save(state, place / "pytorch_model.bin")
        return place
    where = {name: f"pytorch_model-{n % shards}.bin" for n, name in enumerate(state)}
    for file in set(where.values()):
        torch.save({n: t for n, t in state.items() if where[n] == file}, place / file)
    index = {"metadata": {}, "weight_map": where}
    (place / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    return place


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("ending", [".pt", ".bin", ".pth"])
def test_numbers_dtypes_and_shapes_are_safetensors(ending, legacy, tmp_path):
    state = {n: t for n, t in tensors().items() if not (legacy and n in NEW)}
    state |= {"turned": torch.arange(6.0).view(2, 3).T, "scalar": torch.tensor(2.5)}
    torch.save(state, tmp_path / f"m{ending}", _use_new_zipfile_serialization=not legacy)
    save_file({n: t.contiguous() for n, t in state.items()}, tmp_path / "m.safetensors")
    pickled = open_model(tmp_path / f"m{ending}", None)
    safe = open_model(tmp_path / "m.safetensors", None)
    assert {n: (e.dtype, e.shape, e.bytes) for n, e in pickled.entries.items()} == {
        n: (e.dtype, e.shape, e.bytes) for n, e in safe.entries.items()
    }
    theirs = numbers_of(safe)
    for name, values in numbers_of(pickled).items():
        assert values.dtype == theirs[name].dtype
        assert values.tobytes() == theirs[name].tobytes()
    part = pickled.read("bfloat16", 3, 7, memoryview(bytearray(8)))
    assert part.dtype == ml_dtypes.bfloat16
    assert part.tolist() == state["bfloat16"].flatten()[3:7].tolist()


@pytest.mark.parametrize("shards", [1, 2])
def test_pickled_folders_merge_with_safetensors_folders(shards, tmp_path):
    base = {"w": torch.zeros(4, 5), "v": torch.ones(5), "ids": torch.arange(3)}
    tuned = {"w": torch.full((4, 5), 2.0), "v": torch.full((5,), 3.0), "ids": torch.arange(3)}
    place = folder_of(tmp_path / "tuned", tuned, shards)
    (tmp_path / "base").mkdir()
    save_file(base, tmp_path / "base/model.safetensors")
    recipe = Recipe("task_arithmetic", (str(place),), str(tmp_path / "base"), {"scale": 0.25})
    done = plan(recipe)
    assert done.problems == []
    merge(done, tmp_path / "out")
    merged = load_file(tmp_path / "out/model.safetensors")
    assert torch.equal(merged["w"], torch.full((4, 5), 0.5))
    assert torch.equal(merged["v"], torch.full((5,), 1.5))
    assert torch.equal(merged["ids"], base["ids"])


def test_a_changed_pickle_is_another_merge(tmp_path):
    """A merge that was killed does not go on with a file that has changed."""
    place = folder_of(tmp_path / "tuned", {"w": torch.ones(3)})
    other = folder_of(tmp_path / "base", {"w": torch.zeros(3)})
    recipe = Recipe("task_arithmetic", (str(place),), str(other))
    before = plan(recipe).mark
    assert before == plan(recipe).mark
    torch.save({"w": torch.full((3,), 2.0)}, place / "pytorch_model.bin")
    assert before != plan(recipe).mark
    assert files_of(open_model(place, None)) == [place / "pytorch_model.bin"]


@pytest.mark.parametrize("path", [("state_dict",), ("model",), ("model", "state_dict")])
def test_weights_within_a_training_checkpoint_are_found_with_a_note(path, tmp_path):
    state = OrderedDict(w=torch.ones(2))
    found = state
    for key in reversed(path):
        found = {key: found, "epoch": 3, "optimizer": {"lr": 0.1}}
    torch.save(found, tmp_path / "m.pt")
    model = open_model(tmp_path / "m.pt", None)
    assert list(model.entries) == ["w"]
    assert all(f'under "{key}"' in note for key, note in zip(path, notes_of([model]), strict=True))


def test_what_is_no_tensor_is_left_out_with_a_note(tmp_path):
    torch.save({"w": torch.ones(2), "version": 1}, tmp_path / "m.pt")
    assert "are no tensors, and are left out" in notes_of([open_model(tmp_path / "m.pt", None)])[0]


def test_the_second_name_of_a_tied_tensor_is_left_out(tmp_path):
    embed = torch.ones(4, 3)
    state = {
        "embed.weight": embed,
        "lm_head.weight": embed,
        "same": embed.clone(),
        "row": embed[:1],
    }
    torch.save(state, tmp_path / "m.pt")
    model = open_model(tmp_path / "m.pt", None)
    assert list(model.entries) == ["embed.weight", "same", "row"]
    assert '"lm_head.weight" is "embed.weight" again (tied)' in notes_of([model])[0]


class Evil:
    """Runs code where it is unpickled carelessly."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return (exec, (f"open({str(self.mark)!r}, 'w').close()",))


@pytest.mark.parametrize("legacy", [False, True])
def test_code_in_a_pickle_is_refused_and_never_run(legacy, tmp_path):
    mark, file = tmp_path / "mark", tmp_path / "m.pt"
    torch.save(
        {"w": torch.ones(2), "x": Evil(mark)}, file, _use_new_zipfile_serialization=not legacy
    )
    with pytest.raises(TaskgroveError, match=r"is a pickle that asks for .*exec, which could run"):
        open_model(file, None)
    assert not mark.exists()
    torch.load(file, weights_only=False)
    assert mark.exists()  # it would have


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("m.pt", b"PK\x03\x04 cut", "cannot be read as a PyTorch file"),
        ("m.bin", b"", "cannot be read as a PyTorch file"),
        ("m.pth", pickle.dumps([1, 2]), "asks for other objects"),
    ],
)
def test_damaged_files_are_one_sentence(name, content, words, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TaskgroveError, match=words):
        open_model(tmp_path / name, None)


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ([torch.ones(2)], "holds no named tensors"),
        ({"epoch": 1}, "holds no named tensors"),
        ({"w": torch.ones(2, 2).to_sparse()}, 'tensor "w" is float32, torch.sparse_coo'),
        ({"w": torch.ones(2, dtype=torch.complex64)}, 'tensor "w" is complex64'),
    ],
)
def test_files_without_plain_tensors_are_refused(state, words, tmp_path):
    torch.save(state, tmp_path / "m.pt")
    with pytest.raises(TaskgroveError, match=words):
        open_model(tmp_path / "m.pt", None)


@pytest.mark.parametrize(
    ("index", "words"),
    [
        ({"weight_map": {"w": "../other.bin"}}, "plain file names of its own"),
        ({"weight_map": {"w": "gone.bin"}}, 'lacks shards that its index names: "gone.bin"'),
        ({"weight_map": {}}, "weight_map"),
    ],
)
def test_indices_that_lie_are_refused(index, words, tmp_path):
    place = folder_of(tmp_path / "m", {"w": torch.ones(2), "v": torch.ones(2)}, shards=2)
    (place / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    with pytest.raises(TaskgroveError, match=words):
        open_model(place, None)


def test_a_tensor_in_two_shards_is_refused(tmp_path):
    place = folder_of(tmp_path / "m", {"w": torch.ones(2), "v": torch.ones(2)}, shards=2)
    torch.save({"w": torch.ones(2), "v": torch.ones(2)}, place / "pytorch_model-1.bin")
    with pytest.raises(TaskgroveError, match='tensors "w" are in two files'):
        open_model(place, None)


def test_safetensors_are_preferred_where_both_are(tmp_path):
    place = folder_of(tmp_path / "m", {"w": torch.ones(2)})
    save_file({"safe": torch.ones(2)}, place / "model.safetensors")
    assert list(open_model(place, None).entries) == ["safe"]


def test_the_command_line_says_it_in_one_sentence(tmp_path):
    torch.save({"x": Evil(tmp_path / "mark")}, tmp_path / "m.pt")
    torch.save({"x": torch.ones(1)}, tmp_path / "b.pt")
    words = ["--base", tmp_path / "b.pt", "--tuned", tmp_path / "m.pt", "--out", tmp_path / "out"]
    assert "could run code" in call("merge", "average", *words).sentence()
    assert not (tmp_path / "out").exists()
