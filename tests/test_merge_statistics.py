"""Passes that write Fisher and Gram folders: autograd by hand, exact resume, and the merges."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
)

from taskgrove.cli.merge_statistics import merge_statistics
from taskgrove.errors import TaskgroveError
from taskgrove.merging.plan import Recipe, plan
from taskgrove.merging.stream import merge
from taskgrove.methods import merge_statistics as statistics
from taskgrove.methods.drawn_labels import drawn_log_probability, of_one
from taskgrove.methods.learned_rows import texts_of
from tiny_language_models import tiny_tokenizer

TEXTS = ["the cat sat", "a dog", "the bird on the mat and a dog", "cat", "the mat", "on and on"]
SIZES = {
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}


def saved(model, folder):
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A classifier, a causal model, an encoder, and rows."""
    folder = tmp_path_factory.mktemp("statistics")
    tokens = len(tiny_tokenizer())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        bert = BertConfig(vocab_size=tokens, max_position_embeddings=32, num_labels=3, **SIZES)
        saved(BertForSequenceClassification(bert), folder / "classifier")
        saved(BertModel(bert), folder / "encoder")
        gpt = GPT2Config(vocab_size=tokens, n_positions=32, n_embd=8, n_layer=1, n_head=2)
        saved(GPT2LMHeadModel(gpt), folder / "causal")
    rows = "\n".join(json.dumps({"text": text, "n": n}) for n, text in enumerate(TEXTS))
    (folder / "rows.jsonl").write_text(rows)
    (folder / "rows.csv").write_text("\n".join(["text", *TEXTS]) + "\n")
    return folder


def opened(kind, folder, data):
    net = kind.from_pretrained(folder).eval()
    return net, texts_of(data, ("text",), folder, net.config, 128)[0]


# --- Fisher ------------------------------------------------------------------------------------


def test_the_fisher_of_a_classifier_is_by_hand(places, tmp_path):
    """Squares of autograd's gradients of log p of the class that each row's generator draws."""
    statistics.fisher(places / "classifier", places / "rows.jsonl", tmp_path / "F", seed=3)
    got = load_file(tmp_path / "F/model.safetensors")
    net, texts = opened(BertForSequenceClassification, places / "classifier", places / "rows.csv")
    expected = {name: torch.zeros_like(w) for name, w in net.named_parameters()}
    for row in range(len(TEXTS)):
        logits = net(**texts.batch(torch.tensor([row]))).logits[0]
        draw = torch.Generator().manual_seed(3 * 1_000_003 + row)
        y = torch.multinomial(logits.detach().softmax(0), 1, generator=draw)
        grads = torch.autograd.grad(logits.log_softmax(0)[y[0]], list(net.parameters()))
        for name, grad in zip(expected, grads, strict=True):
            expected[name] += grad**2 / len(TEXTS)
    assert (
        got.keys() == expected.keys() == load_file(places / "classifier/model.safetensors").keys()
    )
    for name, F in expected.items():
        torch.testing.assert_close(got[name], F)
    assert sum(F.sum() for F in got.values()) > 0


def test_the_fisher_of_a_causal_model_sums_over_next_tokens(places):
    net, texts = opened(GPT2LMHeadModel, places / "causal", places / "rows.csv")
    batch = texts.batch(torch.tensor([2]))
    logits = net(**batch).logits[0, :-1]
    draw = torch.Generator().manual_seed(5)
    y = torch.multinomial(logits.detach().softmax(-1), 1, generator=draw)[:, 0]
    expected = logits.log_softmax(-1)[range(len(y)), y].sum()
    torch.testing.assert_close(drawn_log_probability(net, batch, 5), expected)
    one = drawn_log_probability(net, {n: t[:, :1] for n, t in batch.items()}, 5)
    assert one.item() == 0  # nothing follows it
    one.backward()


@pytest.mark.parametrize(
    ("problem", "z", "expected"),
    [
        (None, [0.0, 1.0, 2.0], lambda z: (p := z.softmax(0)) * (1 - p)),
        ("multi_label_classification", [0.0, 1.0, -2.0], lambda z: (p := z.sigmoid()) * (1 - p)),
        (None, [0.7], torch.ones_like),
        ("regression", [0.7, 3.0], torch.ones_like),
    ],
)
def test_squared_gradients_of_drawn_labels_have_the_fishers_mean(problem, z, expected):
    """E_y (grad_z log p)^2 is known in closed form."""
    config = SimpleNamespace(problem_type=problem, num_labels=len(z))
    z, total = torch.tensor(z, requires_grad=True), torch.zeros(len(z))
    draw, draws = torch.Generator().manual_seed(0), 3000
    for _ in range(draws):
        (grad,) = torch.autograd.grad(of_one(z, config, draw), z)
        total += grad**2 / draws
    torch.testing.assert_close(total, expected(z.detach()), rtol=0.12, atol=0.02)


# --- Gram matrices -----------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "model"), [("encoder", BertModel), ("causal", GPT2LMHeadModel)])
def test_gram_matrices_are_of_real_tokens_inputs(kind, model, places, tmp_path):
    """Whatever the batch, each layer's inputs row by row, without padding."""
    statistics.gram(places / kind, places / "rows.csv", tmp_path / "G", batch_size=4)
    got = load_file(tmp_path / "G/model.safetensors")
    net, texts = opened(model, places / kind, places / "rows.csv")
    inputs = {}
    for name, module in net.named_modules():
        if type(module).__name__ in ("Linear", "Conv1D") and name != "lm_head":
            module.register_forward_pre_hook(
                lambda _, x, n=f"{name}.weight": inputs.setdefault(n, []).append(
                    x[0].flatten(0, -2)
                )
            )
    with torch.no_grad():
        for row in range(len(TEXTS)):
            net(**texts.batch(torch.tensor([row])))
    assert got.keys() == inputs.keys()
    for name, parts in inputs.items():
        X = torch.cat(parts)
        G = X.T @ X / len(X)
        torch.testing.assert_close(got[name], G if kind == "encoder" else G[None])


# --- stopping and going on ---------------------------------------------------------------------


def stop_at(step):
    def tell(done, _):
        if done == step:
            raise KeyboardInterrupt

    return tell


@pytest.mark.parametrize("make", [statistics.fisher, statistics.gram])
@pytest.mark.parametrize("keep", [0.0, 300.0])
def test_a_stopped_pass_goes_on_with_the_same_bits(make, keep, places, tmp_path):
    more = {"batch_size": 2} if make is statistics.gram else {}
    where = (places / "classifier", places / "rows.csv")
    make(*where, tmp_path / "whole", **more)
    with pytest.raises(KeyboardInterrupt):
        make(*where, tmp_path / "cut", progress=stop_at(2), keep_seconds=keep, **more)
    assert not (tmp_path / "cut").exists()
    seen = []
    make(*where, tmp_path / "cut", progress=lambda done, _: seen.append(done), **more)
    assert seen[0] == 3  # the steps that were done are not done again
    whole, cut = (load_file(tmp_path / f / "model.safetensors") for f in ("whole", "cut"))
    assert all(torch.equal(whole[name], t) for name, t in cut.items())
    assert sorted(p.name for p in (tmp_path / "cut").iterdir()) == [
        "model.safetensors",
        "statistics.json",
    ]
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_another_pass_does_not_go_on_with_the_sums_of_the_last(places, tmp_path):
    where = (places / "classifier", places / "rows.csv", tmp_path / "F")
    with pytest.raises(KeyboardInterrupt):
        statistics.fisher(*where, progress=stop_at(2))
    seen = []
    statistics.fisher(*where, seed=1, rows=4, progress=lambda done, all_: seen.append((done, all_)))
    assert seen == [(n, 4) for n in (1, 2, 3, 4)]
    statistics.fisher(*where[:2], tmp_path / "again", seed=1, rows=4)
    one, other = (load_file(tmp_path / f / "model.safetensors") for f in ("F", "again"))
    assert all(torch.equal(one[name], t) for name, t in other.items())


# --- with the merges ---------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "kind"), [("fisher", "fisher"), ("regmean", "gram")])
@pytest.mark.parametrize("model", ["classifier", "causal"])
def test_merges_read_what_the_passes_wrote(method, kind, model, places, tmp_path):
    """Two models that are one: the merge is that model, whatever the statistics."""
    source = places / model
    twin = tmp_path / "twin"
    twin.mkdir()
    for file in source.iterdir():
        (twin / file.name).write_bytes(file.read_bytes())
    make = getattr(statistics, kind)
    for n, data in enumerate(("rows.csv", "rows.jsonl")):
        make(source, places / data, tmp_path / f"S{n}", rows=3 + n)
    beside = {kind: (str(tmp_path / "S0"), str(tmp_path / "S1"))}
    done = plan(Recipe(method, (str(source), str(twin)), beside=beside))
    assert done.problems == []
    merge(done, tmp_path / "out")
    told = json.loads((tmp_path / "out/merge.json").read_text())["inputs"]
    assert len({each["digest"] for each in told[-2:]}) == 2  # of other rows
    assert all(each["model"].startswith(f"{kind} ") for each in told[-2:])
    assert told[-1]["digest"] in (tmp_path / "out/README.md").read_text()
    got, own = (load_file(f / "model.safetensors") for f in (tmp_path / "out", source))
    for name, w in own.items():
        torch.testing.assert_close(got[name], w, rtol=1e-4, atol=1e-5)


# --- what is refused, and the command ----------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rows": 0}, "--rows is 0; expected 1 or more"),
        ({"text": ("txet",)}, 'column "txet" is not in rows.csv .*Did you mean "text"'),
        ({"model": "gone"}, "has no config.json; expected a whole model"),
        ({"out": "encoder"}, "encoder exists; give a folder that does not"),
        ({"out": "no/where"}, "there is no folder .*; make it first"),
    ],
)
def test_mistakes_are_told_before_anything_is_computed(options, words, places):
    given = {"model": "classifier", "out": "F", "text": ("text",), **options}
    where = [places / given.pop("model"), places / "rows.csv", places / given.pop("out")]
    for make in (statistics.fisher, statistics.gram):
        with pytest.raises(TaskgroveError, match=words):
            make(*where, **given)
    assert not (places / "F").exists()


def test_an_encoder_has_no_fisher_and_a_head_that_is_missing_is_named(places, tmp_path):
    with pytest.raises(TaskgroveError, match="BertModel predicts nothing, so it has no Fisher"):
        statistics.fisher(places / "encoder", places / "rows.csv", tmp_path / "F")
    config = json.loads((places / "encoder/config.json").read_text())
    broken = saved(BertModel.from_pretrained(places / "encoder"), tmp_path / "broken")
    config["architectures"] = ["BertForSequenceClassification"]
    (broken / "config.json").write_text(json.dumps(config))
    with pytest.raises(TaskgroveError, match=r'lacks .*"classifier\.(weight|bias)"'):
        statistics.gram(broken, places / "rows.csv", tmp_path / "G")
    config["architectures"] = ["NoSuchModel"]
    (broken / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        TaskgroveError, match="NoSuchModel, a class that transformers does not have"
    ):
        statistics.gram(broken, places / "rows.csv", tmp_path / "G")


def test_the_command(places, tmp_path, capsys):
    model, data = places / "classifier", places / "rows.csv"
    merge_statistics("fisher", model, data, tmp_path / "F", rows=2)
    merge_statistics("gram", model, data, tmp_path / "G", text=["text"], batch_size=3)
    assert capsys.readouterr().out.split() == ["fisher", f"{tmp_path}/F", "gram", f"{tmp_path}/G"]
    assert json.loads((tmp_path / "G/statistics.json").read_text())["rows"] == len(TEXTS)
    with pytest.raises(TaskgroveError, match=r'no statistics "fischer"; .*Did you mean "fisher"'):
        merge_statistics("fischer", model, data, tmp_path / "X")
    with pytest.raises(TaskgroveError, match="--text names 3 columns; expected one, or a pair"):
        merge_statistics("gram", model, data, tmp_path / "X", text=["a", "b", "c"])
    with pytest.raises(TaskgroveError, match="--batch-size is 0"):
        merge_statistics("gram", model, data, tmp_path / "X", batch_size=0)


def test_pairs_of_texts(places, tmp_path):
    (tmp_path / "pairs.csv").write_text("a,b\nthe cat,a dog\non,the mat\n")
    statistics.fisher(places / "classifier", tmp_path / "pairs.csv", tmp_path / "F", ("a", "b"))
    found = load_file(tmp_path / "F/model.safetensors")
    assert all(np.isfinite(F.numpy()).all() for F in found.values())
