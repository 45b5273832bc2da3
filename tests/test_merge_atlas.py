"""aTLAS of transformers folders: both heads, few shots and no labels, out of core, resumed."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from command_line import call, works
from taskgrove.methods.atlas_report import Composing
from taskgrove.methods.merge_atlas import hidden, merge_atlas
from tiny_classifiers import write_family

ROWS = {"yes": ["red dog", "big dog runs", "dog", "small dog"], "no": ["blue cat", "cat sleeps",
        "cat", "big cat"]}  # fmt: skip
QUICK = Composing(steps=6, folds=0, batch=8)


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    """B and C of one base, C with the target's classes; two tuned models of other tasks; rows."""
    place = tmp_path_factory.mktemp("pool")
    family = {"B": None, "A1": ["a", "b"], "A2": ["u", "v", "w"]}
    write_family(place, family, torch.float32)
    model = AutoModelForSequenceClassification.from_pretrained(place / "B")
    model.config.id2label, model.config.label2id = {0: "no", 1: "yes"}, {"no": 0, "yes": 1}
    model.save_pretrained(place / "C")
    AutoTokenizer.from_pretrained(place / "B").save_pretrained(place / "C")
    lines = [f"{text},{label}" for label, texts in ROWS.items() for text in texts]
    (place / "few.csv").write_text("\n".join(["text,label", *lines, "big,"]) + "\n")
    return place


def run(pool, out, base="C", **more):
    given = {"composing": QUICK, **more}
    return merge_atlas(pool / base, [pool / "A1", pool / "A2"], pool / "few.csv", out, **given)


def test_the_folder_is_the_base_plus_scaled_vectors_and_answers_better(pool, tmp_path):
    found = run(pool, tmp_path / "M", valid=pool / "few.csv")
    merged = load_file(tmp_path / "M/model.safetensors")
    base, *tuned = (load_file(pool / n / "model.safetensors") for n in ("C", "A1", "A2"))
    facts = json.loads((tmp_path / "M/coefficients.json").read_text())
    assert facts["models"] == ["A1", "A2"]
    assert facts["head"] == "the base's own"
    assert merged.keys() == base.keys()
    for n, name in enumerate(facts["tensors"]):
        expected = base[name] + sum(
            c[n] * (t[name] - base[name]) for c, t in zip(facts["values"], tuned, strict=True)
        )
        torch.testing.assert_close(merged[name], expected, atol=1e-5, rtol=1e-4)
    head = [name for name in base if name not in facts["tensors"]]
    assert head == ["classifier.bias", "classifier.weight"]  # frozen
    assert all(torch.equal(merged[name], base[name]) for name in head)
    assert facts["losses"][-1] < facts["losses"][0]
    assert facts["accuracy"] == found.scores
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "M").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "M")
    right = [
        model(**tokenizer(text, return_tensors="pt")).logits.argmax().item() == (label == "yes")
        for label, texts in ROWS.items()
        for text in texts
    ]
    assert sum(right) / len(right) == pytest.approx(found.scores["composed"])
    assert (tmp_path / "M/coefficients.png").read_bytes().startswith(b"\x89PNG")
    assert not list(tmp_path.glob(".*"))


def test_classes_that_the_base_lacks_get_a_head_of_their_names(pool, tmp_path):
    text = (pool / "few.csv").read_text().replace(",yes", ",dog").replace(",no", ",cat")
    (tmp_path / "few.csv").write_text(text)
    given = (pool / "B", [pool / "A1", pool / "A2"], tmp_path / "few.csv", tmp_path / "M")
    found = merge_atlas(*given, composing=QUICK)
    assert found.classes == ("cat", "dog")
    W = load_file(tmp_path / "M/label_head.safetensors")["W"]
    torch.testing.assert_close(W.norm(dim=1), torch.ones(2))
    torch.testing.assert_close(found.found.losses[0, 0], zero_shot_loss(pool, W), rtol=1e-4, atol=0)


def zero_shot_loss(pool, W):
    """Of the eight rows under the base, by transformers alone."""
    model = AutoModelForSequenceClassification.from_pretrained(pool / "B").eval()
    tokenizer = AutoTokenizer.from_pretrained(pool / "B")
    losses = []
    for n, label in enumerate(("no", "yes")):
        for text in ROWS[label]:
            inputs = tokenizer(text, return_tensors="pt")
            z = model.bert(**inputs).last_hidden_state[0].mean(0)
            losses.append(-(20 * W @ z / z.norm()).log_softmax(0)[n])
    return torch.stack(losses).mean().detach()


def test_where_the_base_does_better_it_is_handed_out(pool, tmp_path):
    bad = Composing(steps=2, folds=2, batch=8, learning_rate=30.0)
    found = run(pool, tmp_path / "M", composing=bad)
    assert "the base is handed out as it is" in found.notes[-1]
    base, merged = (load_file(f / "model.safetensors") for f in (pool / "C", tmp_path / "M"))
    assert all(torch.equal(base[name], merged[name]) for name in base)


@pytest.mark.parametrize("labelled", [True, False])
def test_a_run_that_was_stopped_ends_with_the_same_bits(pool, tmp_path, labelled, monkeypatch):
    monkeypatch.setattr("taskgrove.methods.merge_atlas.EVERY", 2)
    whole = run(pool, tmp_path / "whole", labelled=labelled)

    def stop(done, *_):
        if done == 5:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        run(pool, tmp_path / "M", labelled=labelled, progress=stop)
    assert not (tmp_path / "M").exists()
    steps = []
    again = run(pool, tmp_path / "M", labelled=labelled, progress=lambda n, *_: steps.append(n))
    assert steps == [5, 6]
    assert torch.equal(again.found.coefficients, whole.found.coefficients)
    assert again.found.coefficients.abs().max() > 0
    a, b = (load_file(tmp_path / n / "model.safetensors") for n in ("whole", "M"))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_strong_view_hides_tokens_but_never_a_row():
    mask = torch.ones(64, 9, dtype=torch.int64)
    mask[:32, 4:] = 0
    seen = hidden({"attention_mask": mask}, 0, 0)["attention_mask"]
    assert (seen <= mask).all()
    assert (seen.sum(1) > 0).all()
    assert 0.05 < 1 - seen.sum() / mask.sum() < 0.2
    assert not torch.equal(seen, hidden({"attention_mask": mask}, 1, 0)["attention_mask"])


def test_the_command(pool, tmp_path):
    words = ("merge", "atlas", "--base", pool / "C", "--tuned", pool / "A1", pool / "A2")
    out = works(*words, "--train", pool / "few.csv", "--folds", 0, "--steps", 2, "--partitions", 3,
                "--valid", pool / "few.csv", "--out", tmp_path / "M")  # fmt: skip
    assert "accuracy on the validation rows: base " in out
    facts = json.loads((tmp_path / "M/coefficients.json").read_text())
    assert torch.tensor(facts["values"]).shape == (2, len(facts["tensors"]), 3)
    works(*words, "--unlabelled", pool / "few.csv", "--steps", 2, "--out", tmp_path / "N",
          "--valid", pool / "few.csv")  # fmt: skip


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ((), "expected one file of rows: --train"),
        (("--train", "few.csv", "--unlabelled", "few.csv"), "expected one file of rows"),
        (("--train", "few.csv", "--classes", "a", "b"), "--classes goes with --unlabelled"),
        (("--train", "few.csv", "--label", "lable"), 'Did you mean "label"?'),
        (("--train", "few.csv", "--folds", 9), "folds=9 with 8 shots"),
        (("--train", "one.csv"), "expected two or more: give rows of each"),
        (("--unlabelled", "few.csv", "--classes", "a"), "or --classes A B"),
    ],
)
def test_mistakes_are_sentences_and_nothing_is_written(pool, tmp_path, monkeypatch, more, sentence):
    monkeypatch.chdir(pool)
    (pool / "one.csv").write_text("text,label\nred dog,dog\nbig dog,dog\n")
    words = ("merge", "atlas", "--base", "B", "--tuned", "A1", "A2", "--out", tmp_path / "M")
    assert sentence in call(*words, *more).sentence()
    assert not (tmp_path / "M").exists()
