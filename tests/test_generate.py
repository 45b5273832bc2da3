"""taskgrove generate logits-fusion: outputs, weights and the page, from folders on disk."""

import json
import re
from html import unescape

import pytest
import torch
from typer.testing import CliRunner

from taskgrove.cli.generate import app
from taskgrove.composing.answers import options
from taskgrove.composing.dynamic_alpha import Rule
from taskgrove.composing.fused_lm import Answer
from taskgrove.composing.load import load_fused, load_model
from taskgrove.composing.token_page import COLOURS, page, pieces
from taskgrove.errors import TaskgroveError
from tiny_classifiers import write_family
from tiny_language_models import tiny_model, tiny_tokenizer

PROMPTS = ["the cat", "a <b>dog</b> & the bird", "b"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """L, S, E1, E2 and p.jsonl."""
    root, tokenizer = tmp_path_factory.mktemp("models"), tiny_tokenizer()
    size = len(tokenizer)
    models = {"L": tiny_model("llama", size, seed=0, width=32)}
    models |= {"S": tiny_model("llama", size, seed=1, width=16)}
    for n in (1, 2):
        models[f"E{n}"] = tiny_model("llama", size, seed=1, width=16, moved=1 + n)
    for name, model in models.items():
        model.save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
    rows = [json.dumps({"prompt": prompt}) for prompt in PROMPTS]
    (root / "p.jsonl").write_text("\n".join(rows))
    return root


def words(folder, **changed):
    given = {"large": "L", "small": "S", "prompts": "p.jsonl", "out": "out.jsonl", **changed}
    found = ["logits-fusion", "--max-new-tokens", "10"]
    for name, value in given.items():
        path = name in ("large", "small", "prompts", "out")
        if value is not None:
            found += [f"--{name.replace('_', '-')}", str(folder / value if path else value)]
    return found


def experts(folder, *names):
    return [word for name in names for word in ("--experts", str(folder / name))]


def sentence(arguments):
    found = CliRunner().invoke(app, arguments)
    assert isinstance(found.exception, TaskgroveError), (found.output, found.exception)
    return str(found.exception)


def test_outputs_weights_and_page(folder):
    both = experts(folder, "E1", "E2")
    done = CliRunner().invoke(app, [*words(folder, batch_size=2), *both])
    assert done.exit_code == 0, done.output
    assert "3 answers" in done.output
    assert "1 forward of the large model, 3 of small ones" in done.output
    rows = [json.loads(line) for line in (folder / "out.jsonl").read_text().splitlines()]
    fused = load_fused(folder / "L", folder / "S", [folder / "E1", folder / "E2"], Rule())
    chosen = options(10, 0.0, 1.0, 1, fused.tokenizer)
    for prompt, row in zip(PROMPTS, rows, strict=True):
        (answer,) = fused.generate([prompt], chosen)
        assert (row["prompt"], row["output"]) == (prompt, answer.text)
        assert len(row["tokens"]) == len(row["alpha"]["E1"]) == len(answer.tokens)
        assert row["alpha"]["E2"] == pytest.approx(answer.alpha[:, 1].tolist(), abs=5e-3)
        mean = sum(row["alpha"]["E2"]) / len(row["tokens"])
        assert row["mean_alpha"]["E2"] == pytest.approx(mean, abs=1e-3)
        assert row["seconds_a_token"] > 0
    shown = (folder / "out.html").read_text()
    assert "a &lt;b&gt;dog&lt;/b&gt; &amp; the bird" in shown
    tokens = re.findall(r'<span title="E1 ([\d.]+), E2 ([\d.]+)"(?: style="([^"]*)")?>', shown)
    assert len(tokens) == sum(len(row["tokens"]) for row in rows)
    for first, second, style in tokens:  # the colour is the stronger expert's
        if abs(float(first) - float(second)) > 0.01:
            assert COLOURS[float(second) > float(first)] in style
    assert len({style.split(",0.")[0] for *_, style in tokens}) > 1  # or this shows nothing


def test_the_page_shows_text_as_text():
    tokenizer = tiny_tokenizer()
    tokens = tokenizer("<b>x</b>&")["input_ids"]
    answer = Answer("<b>x</b>&", tokens, torch.zeros(len(tokens), 1))
    written = page(["<i>"], [answer], ['"E"<'], tokenizer)
    assert "<b>" not in written
    assert "<i>" not in written
    shown = re.sub("<[^>]*>", "", written.split("<pre>")[1].split("</pre>")[0])
    assert unescape(shown) == "<i><b>x</b>&"
    assert "background" not in written.split("<pre>")[1]  # weights of 0 leave tokens white


def test_sampling_repeats_with_its_seed(folder):
    both = [*experts(folder, "E1"), "--temperature", "1.0"]

    def outputs(seed):
        done = CliRunner().invoke(app, [*words(folder, out=f"{seed}.jsonl", seed=seed), *both])
        assert done.exit_code == 0, done.output
        return [
            json.loads(line)["output"]
            for line in (folder / f"{seed}.jsonl").read_text().splitlines()
        ]

    assert outputs(1) == outputs(1)
    assert outputs(1) != outputs(2)


def test_pieces_are_the_whole_text():
    tokenizer = tiny_tokenizer()
    tokens = tokenizer("the café – ü")["input_ids"]
    found = pieces(tokens, tokenizer)
    assert "".join(found) == "the café – ü"
    assert len(found) == len(tokens)
    assert "é" in found
    assert not any("\ufffd" in piece for piece in found)


def test_mistakes_are_one_sentence(folder):
    one = experts(folder, "E1")
    assert "--large is missing" in sentence([*words(folder, large=None), *one])
    assert "--small is missing" in sentence([*words(folder, small=None), *one])
    assert "--experts is missing" in sentence(words(folder))
    assert "--batch-size is 0" in sentence([*words(folder, batch_size=0), *one])
    assert "in a folder that exists" in sentence([*words(folder, out="no/out.jsonl"), *one])
    assert "--top-p is 1.5" in sentence([*words(folder, top_p=1.5), *one])
    assert "--beams is 0" in sentence([*words(folder, beams=0), *one])
    assert 'Did you mean "axes"' in sentence([*words(folder, method="axis"), *one])
    (folder / "bad.jsonl").write_text('{"prompt": "a"}\n{"text": "b"}\n')
    told = sentence([*words(folder, prompts="bad.jsonl"), *one])
    assert told.startswith('bad.jsonl, row 2 has no text in "prompt" (it has: text)')
    assert "nothing.jsonl cannot be read" in sentence(
        [*words(folder, prompts="nothing.jsonl"), *one]
    )
    assert "E9 is not there" in sentence([*words(folder), *experts(folder, "E9")])
    assert not (folder / "no").exists()


def test_a_classifier_is_not_a_language_model(folder):
    write_family(folder, {"classifier": ["no", "yes"]})
    with pytest.raises(TaskgroveError, match="no causal language model: it lacks"):
        load_model(folder / "classifier")


def test_answers_longer_than_the_models_read(folder):
    one = experts(folder, "E1")
    said = sentence([*words(folder, max_new_tokens=100_000), *one])
    assert said.startswith("prompt 1 has ")
    assert "ask for fewer with --max-new-tokens" in said
