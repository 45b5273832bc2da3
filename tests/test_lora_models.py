"""LoRA folders read as models: PEFT's own numbers, the obvious twin, and what is refused."""

import json

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from reference import matrix_merges as twin
from taskgrove.errors import TaskgroveError
from taskgrove.merging.files.adapter import folder_of
from taskgrove.merging.files.lora import within
from taskgrove.merging.fit import whole
from taskgrove.merging.open_model import notes_of, open_model
from taskgrove.merging.plan import Recipe, plan
from taskgrove.merging.stream import merge

quick = settings(max_examples=25, deadline=None)
BASE = {
    "body.query.weight": (4, 6),
    "body.query.bias": (4,),
    "body.square.weight": (5, 5),  # Conv1D: [in out], as its flag says
    "body.square.bias": (5,),
    "body.mixer.weight": (5, 3),  # Conv1D
    "body.mixer.bias": (3,),
    "body.words.weight": (7, 5),
    "body.image.weight": (3, 2, 2, 2),
    "body.score.weight": (2, 6),
}
FACTORS = {"query": (4, 6), "square": (5, 5), "mixer": (3, 5), "words": (5, 7), "image": (3, 2)}
R = {"query": 3, "square": 2, "mixer": 2, "words": 2, "image": 2}
ALPHA = {"query": 5.0, "square": 5.0, "mixer": 7.0, "words": 5.0, "image": 5.0}
PATTERNS = {"rank_pattern": {"query": 3}, "alpha_pattern": {r"body\.mix.r": 7.0}}
TURNED = ("square", "mixer", "words")


def wave(shape, phase):
    """Numbers by a formula, so that PEFT can be given the same ones anywhere."""
    n = np.arange(int(np.prod(shape)), dtype=np.float64)
    return np.sin(phase + 1.7 * n + 0.01 * n * n).reshape(shape).astype(np.float32)


def base_tensors():
    return {name: wave(shape, phase) for phase, (name, shape) in enumerate(BASE.items())}


def adapter_tensors(dora=False, bias=False):
    """As PEFT names and shapes them."""
    found = {"base_model.model.body.score.weight": wave((2, 6), 40)}  # modules_to_save
    for phase, (module, (out, into)) in enumerate(FACTORS.items(), start=20):
        r, start = R[module], f"base_model.model.body.{module}.lora_"
        A, B = (r, into), (out, r)
        if module == "image":
            A, B = (r, 2, 2, 2), (out, r, 1, 1)
        kind, end = ("embedding_", "") if module == "words" else ("", ".weight")
        found[f"{start}{kind}A{end}"] = wave(A, phase)
        found[f"{start}{kind}B{end}"] = wave(B, phase + 10)
        if dora:
            m = np.abs(wave((out,), phase + 30)) + 1
            found[f"{start}magnitude_vector"] = m.reshape(1, -1, 1, 1) if module == "image" else m
        if bias and module == "query":
            found[f"{start}B.bias"] = wave((out,), 50)
    return found


def write_base(folder, tensors=None, **config):
    folder.mkdir(parents=True)
    save_file(base_tensors() if tensors is None else tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "none", **config}))
    return folder


def write_adapter(folder, tensors=None, **config):
    folder.mkdir(parents=True)
    save_file(
        adapter_tensors() if tensors is None else tensors, folder / "adapter_model.safetensors"
    )
    facts = {"peft_type": "LORA", "r": 2, "lora_alpha": 5, "fan_in_fan_out": True, **PATTERNS}
    (folder / "adapter_config.json").write_text(json.dumps({**facts, **config}))
    return folder


def weights(model):
    return {name: whole(model, name).reshape(e.shape) for name, e in model.entries.items()}


def checksum(values):
    return float((values.astype(np.float64) * wave(values.shape, 99)).sum())


@pytest.fixture
def base(tmp_path):
    return write_base(tmp_path / "base")


# --- PEFT's numbers ----------------------------------------------------------------------------

# Of peft 0.21.2's merge_and_unload on the same tensors, as checksums of the merged weights.
PEFT = {
    "lora": {
        "body.query.weight": 25.389001319023617,
        "body.query.bias": -1.6288416076937113,
        "body.square.weight": -8.419385000195193,
        "body.square.bias": -0.2541880092098472,
        "body.mixer.weight": 5.133973003725459,
        "body.mixer.bias": 1.8178276848254624,
        "body.words.weight": 16.129253907617944,
        "body.image.weight": 24.03105284546091,
        "body.score.weight": -4.562578694036238,
    },
    "rslora": {
        "body.query.weight": 43.828426139701875,
        "body.query.bias": -1.6288416076937113,
        "body.square.weight": -6.891433326474513,
        "body.square.bias": -0.2541880092098472,
        "body.mixer.weight": 4.857385834512434,
        "body.mixer.bias": 1.8178276848254624,
        "body.words.weight": 20.60231067982279,
        "body.image.weight": 37.26450130344077,
        "body.score.weight": -4.562578694036238,
    },
    "dora": {
        "body.query.weight": 7.286687035965985,
        "body.query.bias": -1.6288416076937113,
        "body.square.weight": -4.660538826075366,
        "body.square.bias": -0.2541880092098472,
        "body.mixer.weight": 3.019416408803661,
        "body.mixer.bias": 1.8178276848254624,
        "body.words.weight": 6.433339526335069,
        "body.image.weight": 8.088946547024145,
        "body.score.weight": -4.562578694036238,
    },
}


@pytest.mark.parametrize("kind", ["lora", "rslora", "dora"])
def test_merged_weights_are_pefts(kind, base, tmp_path):
    config = {"use_rslora": kind == "rslora", "use_dora": kind == "dora"}
    folder = write_adapter(tmp_path / "a", adapter_tensors(kind == "dora"), **config)
    found = weights(open_model(folder, open_model(base, None)))
    got = {name: checksum(values) for name, values in found.items()}
    assert got == pytest.approx(PEFT[kind], rel=1e-6, abs=1e-6)


@quick
@given(
    shape=st.tuples(st.integers(1, 7), st.integers(1, 9)),
    r=st.integers(1, 4),
    turned=st.booleans(),
    dora=st.booleans(),
    dtype=st.sampled_from([np.float32, np.float64, ml_dtypes.bfloat16]),
    cut=st.floats(0, 1),
)
def test_any_block_is_the_twins(tmp_path_factory, shape, r, turned, dora, dtype, cut):
    folder = tmp_path_factory.mktemp("lora")
    out, into = shape[::-1] if turned else shape
    W = wave(shape, 1).astype(dtype)
    write_base(folder / "base", {"h.proj.weight": W})
    A, B, m = wave((r, into), 2), wave((out, r), 3), np.abs(wave((out,), 4)) + 0.5
    start = "base_model.model.h.proj.lora_"
    tensors = {f"{start}A.weight": A, f"{start}B.weight": B}
    tensors |= {f"{start}magnitude_vector": m} if dora else {}
    config = {"r": r, "fan_in_fan_out": turned, "rank_pattern": {}, "alpha_pattern": {}}
    adapter = write_adapter(folder / "a", tensors, use_dora=dora, **config)
    model = open_model(adapter, open_model(folder / "base", None))
    expected = twin.lora(W.astype(np.float64), A, B, 5 / r, turned, m if dora else None).reshape(-1)
    first = int(cut * (W.size - 1))
    for start, stop in ((0, W.size), (first, W.size), (0, first + 1)):
        room = memoryview(bytearray((stop - start) * W.itemsize))
        got = model.read("h.proj.weight", start, stop, room)
        np.testing.assert_allclose(got, expected[start:stop], rtol=2e-6, atol=2e-6)
        assert got.dtype == (np.float64 if dtype == np.float64 else np.float32)


def test_only_needed_rows_are_multiplied():
    L, R = wave((9, 2), 1), wave((2, 5), 2)
    for start, stop in ((0, 45), (7, 8), (4, 11), (10, 15)):
        np.testing.assert_allclose(within(L, R, start, stop), (L @ R).reshape(-1)[start:stop])


def test_lora_biases_saved_biases_and_leaked_copies(base, tmp_path):
    extra = {
        "base_model.model.body.query.base_layer.bias": wave((4,), 60),
        "base_model.model.body.score.original_module.weight": wave((2, 6), 61),
    }
    folder = write_adapter(tmp_path / "a", adapter_tensors(bias=True) | extra)
    found = weights(open_model(folder, open_model(base, None)))
    expected = wave((4,), 60) + 5.0 / 3 * wave((4,), 50)
    np.testing.assert_allclose(found["body.query.bias"], expected, rtol=1e-6)
    np.testing.assert_array_equal(found["body.score.weight"], wave((2, 6), 40))


@pytest.mark.parametrize(("added", "taken"), [("model.", ""), ("", "body."), ("", "")])
def test_a_prefix_of_all_names_is_added_or_taken_off(added, taken, tmp_path):
    tensors = {added + n.removeprefix(taken): t for n, t in base_tensors().items()}
    model = open_model(
        write_adapter(tmp_path / "a"), open_model(write_base(tmp_path / "base", tensors), None)
    )
    assert set(model.entries) == set(tensors)
    name = f"{added}{'body.'.removeprefix(taken)}query.weight"
    assert checksum(weights(model)[name]) == pytest.approx(PEFT["lora"]["body.query.weight"])


# --- merging with them -------------------------------------------------------------------------


def test_an_adapter_merges_like_the_model_it_makes(base, tmp_path):
    """Task arithmetic of two adapters, from disk, against whole models; unadapted tensors stay."""
    first = write_adapter(tmp_path / "a1")
    second = write_adapter(tmp_path / "a2", {n: -2 * t for n, t in adapter_tensors().items()})
    done = plan(
        Recipe("task_arithmetic", (str(first), str(second)), str(base), {"scale": 0.5}), threads=2
    )
    assert done.problems == []
    merge(done, tmp_path / "out")
    merged, start = load_file(tmp_path / "out/model.safetensors"), base_tensors()
    models = [weights(open_model(f, open_model(base, None))) for f in (first, second)]
    for name, theta in start.items():
        expected = theta + 0.5 * sum(model[name] - theta for model in models)
        np.testing.assert_allclose(merged[name], expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(merged["body.query.bias"], start["body.query.bias"])
    assert not (tmp_path / "out/adapter_config.json").exists()


def test_bf16_bases_need_no_word_about_dtypes(tmp_path):
    tensors = {n: t.astype(ml_dtypes.bfloat16) for n, t in base_tensors().items()}
    base = write_base(tmp_path / "base", tensors)
    done = plan(Recipe("average", (str(write_adapter(tmp_path / "a")),), str(base)))
    assert done.problems == []
    merge(done, tmp_path / "out")
    got = load_file(tmp_path / "out/model.safetensors")["body.query.weight"]
    A, B = (adapter_tensors()[f"base_model.model.body.query.lora_{part}.weight"] for part in "AB")
    exact = twin.lora(tensors["body.query.weight"].astype(np.float64), A, B, 5 / 3)
    np.testing.assert_array_equal(got, exact.astype(np.float32).astype(ml_dtypes.bfloat16))


def test_a_base_that_is_not_given_is_the_one_that_the_adapter_names(base, tmp_path):
    folder = write_adapter(tmp_path / "a", base_model_name_or_path=str(base))
    assert not [note for note in notes_of([open_model(folder, None)]) if "trained on" in note]
    assert folder_of(folder) == base
    lost = write_adapter(tmp_path / "b", base_model_name_or_path="owner/gone")
    with pytest.raises(TaskgroveError, match='an adapter on "owner/gone", which is no folder here'):
        open_model(lost, None)


def test_another_base_by_name_is_a_note(base, tmp_path):
    folder = write_adapter(tmp_path / "a", base_model_name_or_path="owner/other")
    notes = notes_of([open_model(folder, open_model(base, None))])
    assert 'trained on "owner/other"; it is merged onto' in notes[0]
    assert "where the output layer is tied to it" in notes[1]


def test_adapters_as_pickles_are_read_as_weights_only(base, tmp_path):
    folder = write_adapter(tmp_path / "a")
    (folder / "adapter_model.safetensors").unlink()
    tensors = {n: torch.from_numpy(t) for n, t in adapter_tensors().items()}
    torch.save(tensors, folder / "adapter_model.bin")
    found = weights(open_model(folder, open_model(base, None)))
    assert checksum(found["body.image.weight"]) == pytest.approx(PEFT["lora"]["body.image.weight"])


def test_tied_outputs_are_left_out_where_they_are_copies(tmp_path):
    tied = {"embed.weight": wave((7, 5), 1), "h.proj.weight": wave((4, 6), 2)}
    base = open_model(write_base(tmp_path / "base", tied), None)
    start = "base_model.model."
    tensors = {
        f"{start}h.proj.lora_A.weight": wave((2, 6), 3),
        f"{start}h.proj.lora_B.weight": wave((4, 2), 4),
        f"{start}embed.weight": wave((7, 5), 5),
        f"{start}lm_head.weight": wave((7, 5), 5),
    }
    copied = open_model(write_adapter(tmp_path / "a", tensors, rank_pattern={}), base)
    assert set(copied.entries) == set(tied)
    assert "is left out" in notes_of([copied])[0]
    own = tensors | {f"{start}lm_head.weight": wave((7, 5), 6)}
    folder = write_adapter(tmp_path / "b", own, rank_pattern={})
    problems = plan(Recipe("average", (str(folder),), str(tmp_path / "base"))).problems
    assert any('has its own "lm_head.weight"' in problem for problem in problems)


# --- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"peft_type": "IA3"}, "an adapter of type IA3; expected LORA"),
        ({"init_lora_weights": "pissa"}, 'began with init_lora_weights "pissa"'),
        ({"layer_replication": [[0, 2]]}, "it repeats layers"),
        ({"trainable_token_indices": [3]}, "it replaces single rows of an embedding"),
        ({"alora_invocation_tokens": [1]}, "acts only after an invocation"),
        ({"r": "four"}, 'does not say "r" and "lora_alpha"'),
        ({"r": 4}, "its adapter_config.json says rank 4"),
        ({"use_dora": True}, "has no lora_magnitude_vector"),
    ],
)
def test_adapters_that_cannot_be_merged_exactly_are_refused(config, words, base, tmp_path):
    with pytest.raises(TaskgroveError, match=words):
        open_model(write_adapter(tmp_path / "a", **config), open_model(base, None))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"body.gone.lora_A.weight": (2, 3), "body.gone.lora_B.weight": (2, 2)}, "changes .*gone"),
        ({"body.query.lora_B.weight": (9, 3)}, 'do not fit "body.query.weight"'),
        ({"body.query.lora_B.weight": None}, "has no lora_B"),
        ({"body.image.lora_B.bias": (3,)}, 'a LoRA bias for "body.image.bias"'),
        ({"body.query.lora_E": (3, 1)}, 'part "base_model.model.body.query.lora_E"'),
    ],
)
def test_adapters_that_do_not_fit_the_base_are_refused(change, words, base, tmp_path):
    tensors = adapter_tensors()
    for name, shape in change.items():
        tensors.pop(f"base_model.model.{name}", None)
        if shape is not None:
            tensors[f"base_model.model.{name}"] = wave(shape, 7)
    with pytest.raises(TaskgroveError, match=words):
        open_model(write_adapter(tmp_path / "a", tensors), open_model(base, None))


def test_an_adapter_without_its_file_is_refused(base, tmp_path):
    folder = write_adapter(tmp_path / "a")
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(TaskgroveError, match=r"has adapter_config\.json but no adapter_model"):
        open_model(folder, open_model(base, None))


def test_an_output_without_weights_cannot_be_scaled(tmp_path):
    base = write_base(tmp_path / "base", {"h.proj.weight": np.zeros((3, 4), np.float32)})
    start = "base_model.model.h.proj.lora_"
    tensors = {
        f"{start}A.weight": wave((2, 4), 1),
        f"{start}B.weight": np.zeros((3, 2), np.float32),
        f"{start}magnitude_vector": np.ones(3, np.float32),
    }
    folder = write_adapter(tmp_path / "a", tensors, use_dora=True)
    with pytest.raises(TaskgroveError, match=r'DoRA cannot scale an output of "h\.proj.weight"'):
        weights(open_model(folder, open_model(base, None)))
