"""Merging embedding folders: tiny random BERTs, both layouts, what is written, what is refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel, PreTrainedTokenizerFast

from taskgrove.backbones.sentence import common, manner, open_sentence
from taskgrove.errors import TaskgroveError
from taskgrove.measuring.triangle import grid
from taskgrove.methods.merge_embeddings import halves, merge_embeddings, told
from taskgrove.tasks.pair_files import read_pairs
from taskgrove.tasks.pairs import Pairs

WORDS = [f"word{n}" for n in range(40)]


def tokenizer(words):
    vocabulary = {word: n for n, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words])}
    tokens = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokens.normalizer = normalizers.Lowercase()
    tokens.pre_tokenizer = pre_tokenizers.Whitespace()
    tokens.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokens, pad_token="[PAD]", unk_token="[UNK]", model_max_length=32
    )


def sentence_layout(folder, pooling="mean_tokens", normalize=True, length=24):
    """What sentence-transformers writes beside a transformers folder."""
    names = ["Transformer", "Pooling", *(["Normalize"] if normalize else [])]
    paths = ["", "1_Pooling", "2_Normalize"]
    modules = [{"idx": n, "name": str(n), "path": path,
                "type": f"sentence_transformers.models.{name}"}
               for n, (name, path) in enumerate(zip(names, paths, strict=False))]  # fmt: skip
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "modules.json").write_text(json.dumps(modules))
    modes = {f"pooling_mode_{mode}": mode == pooling for mode in ("cls_token", "mean_tokens")}
    (folder / "1_Pooling/config.json").write_text(
        json.dumps({"word_embedding_dimension": 16} | modes)
    )
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": length}))


@pytest.fixture(scope="session")
def models_folder(tmp_path_factory):
    """base, a, b and c: each with the embeddings of a third of the words moved together by twos."""
    folder = tmp_path_factory.mktemp("embeddings")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=44, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=32,
    )  # fmt: skip
    base = BertModel(config).eval()
    with torch.no_grad():
        base.embeddings.word_embeddings.weight.normal_()
    for number, name in enumerate(["base", "a", "b", "c"]):
        model = BertModel(config)
        model.load_state_dict(base.state_dict())
        table = model.embeddings.word_embeddings.weight
        for pair in range(number * 5 - 5, number * 5) if number else ():
            with torch.no_grad():  # partners: word2n and word2n+1
                table[4 + 2 * pair : 6 + 2 * pair] = table[4 + 2 * pair : 6 + 2 * pair].mean(0)
        model.save_pretrained(folder / name)
        tokenizer(WORDS).save_pretrained(folder / name)
    return folder


@pytest.fixture
def places(models_folder, tmp_path):
    shutil.copytree(models_folder, tmp_path / "models")
    return tmp_path / "models"


@pytest.fixture
def probe(tmp_path):
    """Three tasks in three forms; what helps each is one of the models."""
    random, other = np.random.default_rng(0), WORDS[30:]
    few = [" ".join(random.choice(other, 2)) for _ in range(24)]
    pairs = [(f"{WORDS[2 * (n % 5)]} {t}", f"{WORDS[2 * (n % 5) + 1]} {t}")
             for n, t in enumerate(few)]  # fmt: skip
    rows = [{"query": q, "positive": p, "negative": few[n - 1]} for n, (q, p) in enumerate(pairs)]
    lines = [{"task": "first", **row} for row in rows]
    lines += [{"task": "second", "query": t, "positive": t} for t in few[:20]]
    path = tmp_path / "probe.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in lines))
    csv = tmp_path / "graded.csv"
    table = [f"{q},{p},{random.uniform(0, 5):.2f}" for q, p in pairs]
    csv.write_text("\n".join(["a,b,score", *table]))
    return [path, csv]


def merge(places, probe, out="merged", tuned=("a", "b", "c"), **settings):
    several = [places / name for name in tuned]
    settings = {"steps": 4, "batch": 4, "learning_rate": 0.1} | settings
    return merge_embeddings(places / "base", several, probe, places / out, **settings)


def test_the_merged_folder_opens_and_lies_at_the_position(places, probe):
    told_steps = []
    found = merge(places, probe, progress=lambda *step: told_steps.append(step))
    assert told_steps == [(n, 4) for n in range(1, 5)]
    assert sum(found.weights) == pytest.approx(1)
    weights = {n: load_file(places / n / "model.safetensors") for n in ("base", *found.models)}
    merged = AutoModel.from_pretrained(found.out).state_dict()
    for name, theta_0 in weights["base"].items():
        tau = [weights[model][name] - theta_0 for model in found.models]
        moved = sum(w * t for w, t in zip(found.weights, tau, strict=True))
        expected = theta_0 + found.scale * moved
        torch.testing.assert_close(merged[name], expected, atol=1e-6, rtol=1e-5)
    assert AutoTokenizer.from_pretrained(found.out)("word3").input_ids == [2, 7, 3]
    kept = json.loads((found.out / "position.json").read_text())
    assert kept["weights"] == dict(zip(found.models, found.weights, strict=True))
    assert (found.out / "position.png").read_bytes().startswith(b"\x89PNG")
    assert not list(places.glob(".merged*"))


def test_the_table_measures_every_model(places, probe):
    found = merge(places, probe)
    assert set(found.scores) == {"first", "second", "graded"}
    for row in found.scores.values():
        assert list(row) == ["base", "a", "b", "c", "average", "merged"]
    assert found.scores["first"]["a"] > found.scores["first"]["base"]
    assert found.measures == {"first": "nDCG@10", "second": "nDCG@10", "graded": "Spearman"}
    lines = told(found).splitlines()
    assert lines[0].startswith(f"position  scale {found.scale:.3f}; a {found.weights[0]:.3f}")
    assert f"{found.scores['first']['merged']:.1f}" in lines[2]
    mean = np.mean([row["merged"] for row in found.scores.values()])
    assert lines[5].split()[-1] == f"{mean:.1f}"


def test_descent_finds_the_model_that_helps(places, probe):
    """Only a knows the first task's words; with it alone in the probe, its weight must grow."""
    lines = [json.loads(line) for line in probe[0].read_text().splitlines()]
    only = "\n".join(json.dumps(line) for line in lines if line["task"] == "first")
    probe[0].write_text(only)
    found = merge(places, probe[:1], steps=20)
    assert found.weights[0] == max(found.weights)
    assert found.scores["first"]["merged"] > found.scores["first"]["base"]


def test_a_sentence_folder_keeps_its_layout(places, probe):
    for name in ("base", "a", "b"):
        sentence_layout(places / name, "cls_token", normalize=False)
    found = merge(places, probe, tuned=("a", "b"))
    for file in ("modules.json", "1_Pooling/config.json", "sentence_bert_config.json"):
        assert (found.out / file).read_text() == (places / "base" / file).read_text()
    assert not (found.out / "position.png").exists()  # two models have no triangle
    assert manner(found.out) == manner(places / "base")


def test_a_plain_folder_gets_the_layout(places, probe):
    found = merge(places, probe)
    mine = manner(found.out)
    assert (mine.pooling, mine.normalize, mine.max_length) == ("mean", False, 32)
    modules = json.loads((found.out / "modules.json").read_text())
    assert [m["path"] for m in modules] == ["", "1_Pooling"]
    sentence_layout(places / "a", normalize=True)
    again = merge(places, probe, "again")
    assert manner(again.out).normalize is True  # what one model says holds for those that do not


def test_the_pooling_in_force_is_the_models(places):
    encoders = {}
    for pooling in ("cls_token", "mean_tokens"):
        sentence_layout(places / "a", pooling)
        encoders[pooling] = open_sentence(places / "a", common([places / "a"]), None)
        assert encoders[pooling].max_length == 24
    inputs = encoders["cls_token"].prepare({"text": ["word1 word2"]})
    hidden = encoders["cls_token"].model(**inputs)[0][0]
    torch.testing.assert_close(encoders["cls_token"](inputs)[0], hidden[0])
    torch.testing.assert_close(encoders["mean_tokens"](inputs)[0], hidden.mean(0))


def test_a_checkpoint_with_a_prefix_and_half_precision_keeps_both(places, probe):
    weights = {n: w.bfloat16() for n, w in load_file(places / "base/model.safetensors").items()}
    named = {f"bert.{name}": w for name, w in weights.items()} | {"cls.bias": torch.ones(3)}
    save_file(named, places / "base/model.safetensors", {"format": "pt"})
    found = merge(places, probe)
    merged = load_file(found.out / "model.safetensors")
    assert merged.keys() == named.keys()
    assert {w.dtype for w in merged.values() if len(w) > 3} == {torch.bfloat16}
    table = "bert.embeddings.word_embeddings.weight"
    assert not torch.equal(merged[table], named[table])


def test_what_no_vector_depends_on_stays_the_bases(places, probe):
    """A pooler is often drawn anew when a model is opened, so its difference means nothing."""
    file = places / "a/model.safetensors"
    weights = load_file(file)
    weights["pooler.dense.weight"] += 1
    save_file(weights, file, {"format": "pt"})
    found = merge(places, probe)
    merged, base = (load_file(p / "model.safetensors") for p in (found.out, places / "base"))
    assert torch.equal(merged["pooler.dense.weight"], base["pooler.dense.weight"])


# --- what is refused ------------------------------------------------------------------------------


def refused(places, probe, **settings):
    before = sorted(str(path) for path in places.rglob("*"))
    with pytest.raises(TaskgroveError) as caught:
        merge(places, probe, **settings)
    assert sorted(str(path) for path in places.rglob("*")) == before  # nothing was written
    return str(caught.value)


def test_another_pooling_is_named(places, probe):
    sentence_layout(places / "a", "cls_token")
    sentence_layout(places / "b", "mean_tokens")
    sentence = refused(places, probe)
    assert "differ in pooling (a has cls, b has mean)" in sentence


def test_another_normalisation_or_length_is_named(places, probe):
    sentence_layout(places / "a", normalize=True)
    sentence_layout(places / "b", normalize=False)
    assert "differ in normalisation (a has True, b has False)" in refused(places, probe)
    sentence_layout(places / "b", length=16)
    assert "differ in max_seq_length (a has 24, b has 16)" in refused(places, probe)


def test_another_tokenizer_is_named(places, probe):
    tokenizer(WORDS[::-1]).save_pretrained(places / "b")
    sentence = refused(places, probe)
    assert "tokenizers of" in sentence
    assert '"model"' in sentence


def test_a_tokenizers_last_padding_is_no_difference(places, probe):
    file = places / "b/tokenizer.json"
    facts = json.loads(file.read_text()) | {"truncation": {"max_length": 7}}
    file.write_text(json.dumps(facts))
    assert common([places / "a", places / "b"]).pooling is None
    del probe


def test_modules_that_cannot_be_merged_are_named(places, probe):
    sentence_layout(places / "a")
    file = places / "a/modules.json"
    file.write_text(file.read_text().replace("models.Normalize", "models.Dense"))
    assert '"Dense" would have to be merged too' in refused(places, probe)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"tuned": ("a",)}, "got 1 tuned models; expected two or more"),
        ({"tuned": ("a", "b", "a")}, "is named twice"),
        ({"tuned": ("a", "nowhere")}, "nowhere is not a folder"),
        ({"out": "a"}, "exists; expected a new folder"),
        ({"out": "no/where"}, "cannot be made in it"),
        ({"steps": 0}, "steps=0"),
        ({"temperature": 0.0}, "the temperature is 0.0"),
        ({"beta": -1.0}, "beta is -1.0"),
    ],
)
def test_mistakes_are_sentences(places, probe, settings, sentence):
    assert sentence in refused(places, probe, **settings)


def test_few_rows_are_refused(places, probe):
    probe[1].write_text("a,b,score\nword1,word2,3\n")
    assert '1 rows of "graded"; expected at least 16' in refused(places, probe)


@pytest.mark.parametrize(
    ("head", "value", "sentence"),
    [("a,b,score", "3", "the same score"), ("text,label", "x", "the same label")],
)
def test_a_task_that_tells_nothing_apart_is_refused(places, probe, head, value, sentence):
    row = f"word1,word2,{value}\n" if "score" in head else f"word1,{value}\n"
    probe[1].write_text(f"{head}\n{row * 16}")
    assert sentence in refused(places, probe)


def test_a_model_may_be_called_average(places, probe):
    (places / "a").rename(places / "average")
    found = merge(places, probe, tuned=("average", "b"))
    assert found.models == (str(places / "average"), str(places / "b"))
    assert len(found.scores["first"]) == 5


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("x.jsonl", '{"query": "a", "positve": "b"}', 'Did you mean "positive"?'),
        ("x.csv", "a,b,score\nx,y,high\n", 'x.csv, row 1: the score is "high"'),
        ("x.csv", "query,positive\nx,\n", """row 1: "positive" is ''; expected text"""),
        ("x.csv", "text,label\nx,\n", 'row 1: "label" is missing'),
        ("x.csv", "text,label\n", "x.csv has no rows"),
        ("x.txt", "", "x.txt ends in neither of"),
    ],
)
def test_bad_pair_files_are_sentences(tmp_path, name, text, sentence):
    (tmp_path / name).write_text(text)
    with pytest.raises(TaskgroveError) as caught:
        read_pairs([tmp_path / name])
    assert sentence in str(caught.value)


def test_one_task_has_one_form(tmp_path):
    (tmp_path / "x.csv").write_text("task,text,label\nt,a,b\n")
    (tmp_path / "y.csv").write_text("task,query,positive\nt,a,b\n")
    with pytest.raises(TaskgroveError, match=r'the task "t" has columns "text", "label" in x\.csv'):
        read_pairs([tmp_path / "x.csv", tmp_path / "y.csv"])
    with pytest.raises(TaskgroveError, match="is not a file"):
        read_pairs([Path("nowhere.csv")])


def test_pair_files_are_read_as_written(tmp_path):
    (tmp_path / "x.tsv").write_text("text\tlabel\none\tyes\ntwo\tno\nthree\tyes\n")
    (tmp_path / "y.jsonl").write_text('{"query": "q", "positive": "p", "negative": "n"}\n'
                                      '{"query": "r", "positive": "s"}\n')  # fmt: skip
    found = read_pairs([tmp_path / "x.tsv", tmp_path / "y.jsonl"])
    assert found == {
        "x": Pairs("x", ["one", "two", "three"], classes=[1, 0, 1]),
        "y": Pairs("y", ["q", "r"], ["p", "s"], ["n", ""]),
    }


def test_halves_are_balanced_and_apart():
    several = {"s": Pairs("s", [str(n) for n in range(20)], ["p"] * 20),
               "t": Pairs("t", [str(n) for n in range(50)], ["p"] * 50)}  # fmt: skip
    learning, measuring = halves(several, 0)
    assert {task: len(rows) for task, rows in learning.items()} == {"s": 10, "t": 10}
    for task, rows in several.items():
        parts = set(learning[task].first), set(measuring[task].first)
        assert parts[0].isdisjoint(parts[1])
        assert parts[0] | parts[1] == set(rows.first)


def test_the_triangles_points_lie_on_the_simplex():
    points = grid(4)
    assert len(points) == 15
    np.testing.assert_allclose(points.sum(1), 1)
    assert points.min() == 0
