"""Models with different tokenizers: rows follow their tokens, and a union opens in transformers."""

import json

import ml_dtypes
import numpy as np
import pytest
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

from taskgrove.errors import TaskgroveError
from taskgrove.merging.fit import whole
from taskgrove.merging.open_model import files_of, open_model
from taskgrove.merging.plan import Recipe, plan
from taskgrove.merging.stream import merge
from taskgrove.merging.words.tokens import tokens_of
from taskgrove.merging.words.vocabulary import aligned

quick = settings(max_examples=25, deadline=None)
WORDS = ["[UNK]", "red", "green", "blue", "one", "two", "three"]


def tokenizer(words, added=(), kind="WordLevel"):
    """A tokenizer of whole words, with tokens that a user added after them."""
    vocab = {word: n for n, word in enumerate(words)}
    model = {
        "WordLevel": lambda: models.WordLevel(vocab, unk_token="[UNK]"),
        "WordPiece": lambda: models.WordPiece(vocab, unk_token="[UNK]"),
        "BPE": lambda: models.BPE(vocab, [], unk_token="[UNK]"),
        "Unigram": lambda: models.Unigram([(word, -1.0) for word in words], unk_id=0),
    }[kind]()
    found = Tokenizer(model)
    found.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    found.add_tokens([AddedToken(token, normalized=False) for token in added])
    return found


def row(token, model, dim=3):
    """A token's row in a model: told apart by both."""
    return np.float32([len(token), sum(map(ord, token)) % 97, model][:dim])


def write(folder, words, added=(), model=0, padding=0, kind="WordLevel", dtype=np.float32, **more):
    """A model whose rows are `row`, and a body that differs by model."""
    folder.mkdir(parents=True)
    tokens = [*words, *added]
    rows = np.stack([*(row(t, model) for t in tokens), *([np.float32([7, 7, model])] * padding)])
    arrays = {"words.weight": rows, "out.weight": 2 * rows, "out.bias": rows[:, 1].copy()}
    arrays |= {"body": np.full((4, 3), model, np.float32), **more}
    save_file({n: a.astype(dtype) for n, a in arrays.items()}, folder / "model.safetensors")
    config = {"model_type": "none", "vocab_size": len(rows), "hidden_size": 3}
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer(words, added, kind).save(str(folder / "tokenizer.json"))
    return folder


def arrays(model):
    return {n: np.array(whole(model, n)).reshape(e.shape) for n, e in model.entries.items()}


def align(base, tuned, choice):
    """The opened models, aligned, and the vocabulary."""
    opened = None if base is None else open_model(base, None)
    others = [open_model(folder, opened) for folder in tuned]
    return aligned(opened, others, [*([] if base is None else [base]), *tuned], choice)


def rows_of(model):
    return arrays(model)["words.weight"]


# --- rows follow their tokens ------------------------------------------------------------------


def test_rows_of_the_base_by_token(tmp_path):
    """Tuned models have the tokens elsewhere, lack some, have more, and are padded."""
    base = write(tmp_path / "b", WORDS, padding=2)
    one = write(tmp_path / "1", ["[UNK]", "three", "red", "violet"], model=1)
    two = write(tmp_path / "2", [*WORDS[:4], "ten", *WORDS[4:]], model=2, padding=1)
    found, (first, second), vocabulary = align(base, [one, two], "base")
    assert vocabulary.size == 9
    assert not vocabulary.added
    np.testing.assert_array_equal(rows_of(found), rows_of(open_model(base, None)))
    theirs = {"[UNK]": 1, "three": 1, "red": 1}
    np.testing.assert_array_equal(
        rows_of(first),
        [*(row(word, theirs.get(word, 0)) for word in WORDS), [7, 7, 0], [7, 7, 0]],
    )
    # the ninth row has no token in the base nor, by number, in the second model
    np.testing.assert_array_equal(
        rows_of(second), [*(row(word, 2) for word in WORDS), [7, 7, 0], [7, 7, 2]]
    )
    for model in (first, second):
        got = arrays(model)
        np.testing.assert_array_equal(got["out.weight"], 2 * got["words.weight"])
        np.testing.assert_array_equal(got["out.bias"], got["words.weight"][:, 1])
        assert got["body"].shape == (4, 3)


def test_rows_that_the_base_lacks_are_the_mean_of_those_that_have_them(tmp_path):
    base = write(tmp_path / "b", WORDS)
    one = write(tmp_path / "1", WORDS, ["<a>", "<b>"], model=1)
    two = write(tmp_path / "2", WORDS, ["<b>"], model=2)
    three = write(tmp_path / "3", WORDS, model=3)
    found, tuned, vocabulary = align(base, [one, two, three], "union")
    assert vocabulary.size == 9
    assert {token: each["id"] for token, each in vocabulary.added.items()} == {"<a>": 7, "<b>": 8}
    for model in (found, *tuned):
        np.testing.assert_array_equal(rows_of(model)[7], row("<a>", 1))
        np.testing.assert_array_equal(rows_of(model)[8], row("<b>", 1.5))
    assert rows_of(tuned[2])[3].tolist() == row("blue", 3).tolist()


def test_without_a_base_what_a_model_lacks_is_the_mean_of_the_others(tmp_path):
    one = write(tmp_path / "1", WORDS[:4], ["<a>"], model=1)
    two = write(tmp_path / "2", WORDS[:4], ["<b>", "<a>"], model=2)
    _, (first, second), _ = align(None, [one, two], "union")
    np.testing.assert_array_equal(rows_of(first)[4:], [row("<a>", 1), row("<b>", 2)])
    np.testing.assert_array_equal(rows_of(second)[4:], [row("<a>", 2), row("<b>", 2)])


def test_new_tokens_take_padded_rows_first(tmp_path):
    base = write(tmp_path / "b", WORDS, padding=2)
    one = write(tmp_path / "1", WORDS, ["<a>", "<b>", "<c>"], model=1)
    found, _, vocabulary = align(base, [one], "union")
    assert vocabulary.size == 10
    np.testing.assert_array_equal(rows_of(found)[7:], [row(f"<{c}>", 1) for c in "abc"])


def test_more_padding_in_a_tuned_model_is_cut_off(tmp_path):
    base = write(tmp_path / "b", WORDS)
    one = write(tmp_path / "1", WORDS, model=1, padding=2)
    _, (model,), _ = align(base, [one], "base")
    np.testing.assert_array_equal(rows_of(model), [row(word, 1) for word in WORDS])


def test_models_with_the_same_tokens_are_given_back(tmp_path):
    base, one = write(tmp_path / "b", WORDS), write(tmp_path / "1", WORDS, model=1)
    for choice in ("base", "union"):
        found, tuned, vocabulary = align(base, [one], choice)
        assert type(found).__name__ == type(tuned[0]).__name__ == "Checkpoint"
        assert vocabulary.size == len(WORDS)


@quick
@given(
    seed=st.integers(0, 99),
    choice=st.sampled_from(["base", "union"]),
    dtype=st.sampled_from([np.float32, np.float64, ml_dtypes.bfloat16]),
    cut=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_any_block_is_what_a_dictionary_of_rows_gives(tmp_path_factory, seed, choice, dtype, cut):
    """The obvious twin: {token: row} for each model, and Python."""
    folder = tmp_path_factory.mktemp("v")
    rng = np.random.default_rng(seed)
    pool = [f"t{n}" for n in range(12)]
    own = [[*map(str, rng.permutation(pool)[: rng.integers(1, 12)])] for _ in range(3)]
    places = [
        write(folder / str(k), ["[UNK]"], words, model=k, dtype=dtype)
        for k, words in enumerate(own)
    ]
    base, tuned, _ = align(places[0], places[1:], choice)
    extra = [t for words in own[1:] for t in words if t not in own[0]] if choice == "union" else []
    tokens = ["[UNK]", *own[0], *dict.fromkeys(extra)]
    for k, model in enumerate([base, *tuned]):
        expected = []
        for token in tokens:
            has = [j for j, words in enumerate(own) if token in words or token == "[UNK]"]
            mean = np.mean([row(token, j) for j in has], axis=0)
            expected.append(row(token, k if k in has else 0) if 0 in has else mean)
        flat = np.concatenate(expected)
        got = np.array(whole(model, "words.weight"))
        if choice == "union":  # the order of new tokens is the models'
            assert sorted(map(tuple, got.reshape(-1, 3))) == sorted(map(tuple, np.stack(expected)))
        else:
            np.testing.assert_array_equal(got, flat)
        start, stop = sorted(int(c * len(got)) for c in cut)
        room = memoryview(bytearray(8 * (stop - start)))
        part = model.read("words.weight", start, stop, room)
        np.testing.assert_array_equal(part, got[start:stop])


# --- merging with them -------------------------------------------------------------------------


def merge_of(base, tuned, choice, out, method="task_arithmetic", **parameters):
    recipe = Recipe(method, tuple(map(str, tuned)), str(base), parameters, vocabulary=choice)
    done = plan(recipe, threads=2)
    assert done.problems == []
    merge(done, out)
    return load_file(out / "model.safetensors")


def test_a_merge_with_the_bases_vocabulary_leaves_its_tokenizer(tmp_path):
    base = write(tmp_path / "b", WORDS)
    one = write(tmp_path / "1", [*WORDS[:2], "new", *WORDS[3:]], model=1)
    got = merge_of(base, [one], "base", tmp_path / "out", scale=0.5)
    expected = [row(word, 0 if word == "green" else 0.5) for word in WORDS]
    np.testing.assert_array_equal(got["words.weight"], expected)
    assert (tmp_path / "out/tokenizer.json").read_text() == (base / "tokenizer.json").read_text()


@pytest.mark.parametrize("kind", ["WordLevel", "WordPiece", "BPE", "Unigram"])
def test_a_union_with_added_tokens_opens_in_transformers(kind, tmp_path):
    base = write(tmp_path / "b", WORDS, ["<base>"], kind=kind)
    one = write(tmp_path / "1", WORDS, ["<a>", "<b>"], model=1, kind=kind)
    (base / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "added_tokens_decoder": {}})
    )
    (base / "added_tokens.json").write_text(json.dumps({"<base>": 7}))
    got = merge_of(base, [one], "union", tmp_path / "out", scale=0.5)
    assert json.loads((tmp_path / "out/config.json").read_text())["vocab_size"] == 10
    opened = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path / "out")
    for token, model in {"<a>": 1, "<b>": 1, "<base>": 0, "two": 0.5}.items():
        n = opened.convert_tokens_to_ids(token)
        np.testing.assert_array_equal(got["words.weight"][n], row(token, model))
    assert opened("<a>").input_ids == [opened.convert_tokens_to_ids("<a>")]
    assert len(opened) == 10
    assert json.loads((tmp_path / "out/added_tokens.json").read_text())["<b>"] == 9
    decoder = json.loads((tmp_path / "out/tokenizer_config.json").read_text())[
        "added_tokens_decoder"
    ]
    assert [each["content"] for each in decoder.values()] == ["<a>", "<b>"]


def test_a_union_of_learned_pieces_of_word_piece(tmp_path):
    base = write(tmp_path / "b", WORDS, kind="WordPiece")
    (base / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    one = write(tmp_path / "1", [*WORDS, "ten"], ["<a>"], model=1, kind="WordPiece")
    got = merge_of(base, [one], "union", tmp_path / "out", scale=1.0)
    opened = Tokenizer.from_file(str(tmp_path / "out/tokenizer.json"))
    assert opened.encode("ten two <a>").ids == [7, 5, 8]
    np.testing.assert_array_equal(got["words.weight"][7:], [row("ten", 1), row("<a>", 1)])
    assert (tmp_path / "out/vocab.txt").read_text().splitlines() == [*WORDS, "ten"]


def test_other_methods_and_changed_tokenizers(tmp_path):
    base = write(tmp_path / "b", WORDS)
    one = write(tmp_path / "1", WORDS, ["<a>"], model=1)
    two = write(tmp_path / "2", WORDS[::-1], ["<b>"], model=2)
    got = merge_of(base, [one, two], "union", tmp_path / "out", method="ties", density=1.0)
    np.testing.assert_array_equal(got["words.weight"][7:], [row("<a>", 1), row("<b>", 2)])
    np.testing.assert_array_equal(got["words.weight"][1], row("red", 1.5))
    recipe = Recipe("average", (str(one),), str(base), vocabulary="union")
    before = plan(recipe).mark
    text = (one / "tokenizer.json").read_text()
    (one / "tokenizer.json").write_text(text + " ")
    assert plan(recipe).mark != before
    _, (model,), _ = align(base, [one], "union")
    assert one / "tokenizer.json" in files_of(model)


def test_vocabularies_that_differ_are_a_problem_where_nothing_is_said(tmp_path):
    base, one = write(tmp_path / "b", WORDS), write(tmp_path / "1", WORDS, ["<a>"], model=1)
    problems = plan(Recipe("average", (str(one),), str(base))).problems
    assert '"words.weight (8, 3) against (7, 3)"' in " ".join(problems)


# --- adapters ----------------------------------------------------------------------------------


def test_an_adapter_that_saved_a_larger_embedding(tmp_path):
    base = write(tmp_path / "b", WORDS)
    folder = tmp_path / "a"
    folder.mkdir()
    rows = np.stack([row(t, 1) for t in [*WORDS, "<a>"]])
    saved = {"words.weight": rows, "out.weight": 2 * rows, "out.bias": rows[:, 1].copy()}
    named = {f"base_model.model.{name}": values for name, values in saved.items()}
    save_file(named, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    tokenizer(WORDS, ["<a>"]).save(str(folder / "tokenizer.json"))
    _, (model,), vocabulary = align(base, [folder], "union")
    assert vocabulary.size == 8
    np.testing.assert_array_equal(rows_of(model), rows)


# --- tokens, and what is refused ---------------------------------------------------------------


def test_older_tokenizer_files(tmp_path):
    folder = write(tmp_path / "b", WORDS)
    expected = dict(tokens_of(folder).ids)
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.txt").write_text("\n".join(WORDS[:-1]) + "\n")
    (folder / "added_tokens.json").write_text(json.dumps({WORDS[-1]: 6, "beyond": 7}))
    found = tokens_of(folder)
    assert (dict(found.ids), found.lost) == (expected, ("beyond",))
    (folder / "vocab.json").write_text(json.dumps(expected))
    assert dict(tokens_of(folder).ids) == expected
    text = {"text_config": {"vocab_size": 7}, "model_type": "none"}
    (folder / "config.json").write_text(json.dumps(text))
    assert tokens_of(folder).size == 7


def folder_with(folder, change):
    """A model whose files were changed: {file: text, or None to remove it}."""
    write(folder, WORDS[::-1], model=1)
    for name, text in change.items():
        (folder / name).unlink() if text is None else (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tokenizer.json": None}, r"has no tokenizer\.json, vocab\.json or vocab\.txt"),
        ({"tokenizer.json": "{}"}, 'has no "model" with a "vocab"'),
        ({"tokenizer.json": "[]"}, "is not a JSON object"),
        ({"config.json": "{}"}, 'has no "vocab_size"; expected the number of rows'),
        ({"config.json": '{"vocab_size": 99}'}, r"no tensor of .* has 7 rows"),
        ({"tokenizer.json": None, "vocab.json": '{"a": "b"}'}, "does not map tokens to numbers"),
    ],
)
def test_folders_whose_tokens_are_unknown_are_refused(change, words, tmp_path):
    base = write(tmp_path / "b", WORDS)
    with pytest.raises(TaskgroveError, match=words):
        align(base, [folder_with(tmp_path / "1", change)], "base")


@pytest.mark.parametrize(
    ("kinds", "added", "words"),
    [
        (("BPE", "BPE"), (), "a BPE tokenizer cannot take pieces that another one learned"),
        (("Unigram", "Unigram"), (), "a Unigram tokenizer cannot take pieces"),
        (("WordLevel", "BPE"), (), "of different kinds, so they have no union"),
        (("WordPiece", "WordPiece"), ("<x>",), 'own added tokens ("<x>") follow its pieces'),
    ],
)
def test_unions_that_no_tokenizer_can_hold_are_refused(kinds, added, words, tmp_path):
    base = write(tmp_path / "b", WORDS, added, kind=kinds[0])
    one = write(tmp_path / "1", [*WORDS, "ten"], model=1, kind=kinds[1])
    with pytest.raises(TaskgroveError) as error:
        align(base, [one], "union")
    assert words in str(error.value)
    assert "use vocabulary: base" in str(error.value)


def test_bases_without_a_fast_tokenizer_or_with_gaps_take_no_new_tokens(tmp_path):
    base = write(tmp_path / "b", WORDS)
    one = write(tmp_path / "1", WORDS, ["<a>"], model=1)
    facts = json.loads((base / "tokenizer.json").read_text())
    facts["model"]["vocab"]["three"] = 9
    (base / "tokenizer.json").write_text(json.dumps(facts))
    with pytest.raises(TaskgroveError, match="leave rows out or have none"):
        align(base, [one], "union")
    (base / "tokenizer.json").unlink()
    (base / "vocab.txt").write_text("\n".join(WORDS))
    with pytest.raises(TaskgroveError, match=r"has no tokenizer\.json, to which the 1 new tokens"):
        align(base, [one], "union")


def test_other_mistakes(tmp_path):
    base, one = write(tmp_path / "b", WORDS), write(tmp_path / "1", WORDS[::-1], model=1)
    with pytest.raises(TaskgroveError, match=r'vocabulary is unoin; .*Did you mean "union"'):
        align(base, [one], "unoin")
    with pytest.raises(TaskgroveError, match="is one file; expected a model folder"):
        align(base, [one / "model.safetensors"], "base")
    config = {"vocab_size": 7, "hidden_size": 7}
    (base / "config.json").write_text(json.dumps(config))
    with pytest.raises(TaskgroveError, match=r'"hidden_size" of .* is 7, as its vocab_size is'):
        align(base, [one], "base")
