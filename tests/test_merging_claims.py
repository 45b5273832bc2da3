"""The claims about merging: their rows, their half of MiniLM, their arms at tiny sizes."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from taskgrove.errors import TaskgroveError
from taskgrove.measuring.claim import Claim
from taskgrove.merging.learned.vectors import add_scaled
from taskgrove.suites.debian_index import Package
from taskgrove.systems import adamerging, atlas
from taskgrove.systems.debian import debtag_models, few_shots, fine_tunes, merges
from taskgrove.systems.debian.debtag_models import substrate
from taskgrove.systems.debian.facet_rows import (
    COLUMNS,
    PARTS,
    TARGETS,
    TASKS,
    columns_of,
    made_up,
    part_of,
    task_rows,
)
from taskgrove.systems.debian.over_rows import over_rows
from taskgrove.systems.debian.top_layers import Encoder, tiny_encoder
from taskgrove.systems.embedded import picture_models
from taskgrove.tasks.label_text_head import label_text_head

COUNTS = {"train": 60, "validation": 20, "pool": 20, "test": 30}


@pytest.fixture(scope="module")
def world():
    return substrate(0, True)


# --- rows -----------------------------------------------------------------------------------------


def test_the_columns_of_an_index():
    index = {
        "a": Package("s", "libs", "a C library", tags={"role": {"shared-lib"}, "use": {"x", "y"}}),
        "b": Package("s", "libs", "A C++ library 2", tags={"role": {"program"}}),
        "c": Package("t", "", "an editor", tags={"suite": {"TODO"}, "use": {"editing"}}),
        "silent": Package("t", "net", ""),
    }
    columns = columns_of(index)
    kept = min("ab", key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    assert tuple(columns) == COLUMNS
    assert columns["synopsis"] == [index[kept].synopsis, "an editor"]  # a and b agree in letters
    assert columns["section"] == ["libs", None]
    assert columns["use"] == [None, "editing"]  # two values of a are none
    assert columns["suite"] == [None, None]  # TODO says that nobody has decided
    assert columns["role"] == [next(iter(index[kept].tags["role"])), None]


def test_one_test_part_for_all_seeds_and_no_source_in_two_parts():
    table = made_up()
    source = dict(zip(table["synopsis"], table["source"], strict=True))
    first, second = (task_rows(table, "role", seed, COUNTS).parts for seed in (0, 1))
    assert first["test"] == second["test"]
    assert set(first["train"].texts) != set(second["train"].texts)
    for parts in (first, second):
        assert {name: len(rows.texts) for name, rows in parts.items()} == COUNTS
        sources = {name: {source[text] for text in rows.texts} for name, rows in parts.items()}
        assert sum(map(len, sources.values())) == len(set().union(*sources.values()))
    other = task_rows(table, "suite", 0, COUNTS).parts  # the same cut for every task
    assert not {source[t] for t in other["test"].texts} & {source[t] for t in first["train"].texts}


def test_shares_of_the_parts_and_of_a_class():
    found = [part_of(f"source{n}", 3) for n in range(4000)]
    for part, share in {**PARTS, "test": 0.2}.items():
        assert found.count(part) / len(found) == pytest.approx(share, abs=0.03)
    table = made_up()
    table["role"] = [f"class{n % 3 if n % 5 == 0 else 0}" for n in range(len(table["role"]))]
    labels = task_rows(table, "role", 0, {**COUNTS, "train": 90}).parts["train"].labels
    assert len(labels) > 60
    assert labels.count(0) == 60  # twice an even share, where most rows are of this class


def test_fewer_shots_are_among_more(world):
    labels = world.parts["section"]["train"].labels
    one, two = (few_shots.shots(world, "section", k) for k in (1, 2))
    assert set(one.tolist()) < set(two.tolist())
    assert torch.equal(labels[two].bincount(), torch.full((3,), 2))


# --- MiniLM in two halves -------------------------------------------------------------------------


def bert(dim=16, layers=3, heads=2):
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=500, hidden_size=dim, num_hidden_layers=layers, num_attention_heads=heads,
        intermediate_size=2 * dim, max_position_embeddings=48,
    )  # fmt: skip
    model = BertModel(config, add_pooling_layer=False).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


@settings(max_examples=10, deadline=None)
@given(st.lists(st.lists(st.integers(1, 499), min_size=1, max_size=9), min_size=1, max_size=7))
def test_features_are_those_of_transformers(rows):
    model = bert()
    weights = {name: w.detach() for name, w in model.state_dict().items()}
    texts = [" ".join(map(str, row)) for row in rows]
    encoder = Encoder(weights, lambda ts: [[int(i) for i in t.split()] for t in ts], 2, 1, 2)
    ours = encoder.features(encoder.base(), encoder.read(texts, batch=3))
    for text, one in zip(texts, ours, strict=True):
        ids = torch.tensor([[int(i) for i in text.split()]])
        with torch.no_grad():
            theirs = model(input_ids=ids)[0].mean(1)[0]
        torch.testing.assert_close(one, theirs, rtol=1e-4, atol=1e-5)


def test_the_base_is_the_top_layers_and_gradients_reach_all_of_it():
    encoder = tiny_encoder()
    base = {name: w.clone().requires_grad_() for name, w in encoder.base().items()}
    assert len(base) == 32
    assert not any(name.startswith("encoder.layer.0.") for name in base)
    features = encoder.features(base, encoder.read(["one two three", "four"]))
    features.square().sum().backward()
    keys = {name for name in base if name.endswith("key.bias")}  # softmax does not see these
    assert all(w.grad is not None and (n in keys or w.grad.any()) for n, w in base.items())


def test_texts_are_taken_in_order():
    encoder = tiny_encoder()
    texts = encoder.read(["a b c", "d", "e f", "g h i j"])
    some = texts.take(torch.tensor([3, 1]))
    again = encoder.read(["g h i j", "d"])
    assert torch.equal(some.lengths, again.lengths)
    torch.testing.assert_close(some.tokens, again.tokens)


# --- heads ----------------------------------------------------------------------------------------


def test_a_label_text_head_is_zero_shot_classification():
    directions = {"cat": [3.0, 0.0], "a cat": [1.0, 0.0], "dog": [0.0, 2.0], "a dog": [2.0, 2.0]}

    def embed(texts):
        return torch.tensor([directions[text] for text in texts])

    head = label_text_head(embed, ["cat", "dog"], ["{}", "a {}"], scale=10.0)
    middle = np.deg2rad(67.5)  # between 90 and 45 degrees, whatever the lengths
    expected = torch.tensor([[1.0, 0.0], [np.cos(middle), np.sin(middle)]], dtype=torch.float32)
    torch.testing.assert_close(head.W, expected)
    logits = head(torch.tensor([[5.0, 0.0]]))
    torch.testing.assert_close(logits, 10 * expected[None, :, 0])
    with pytest.raises(TaskgroveError, match="two or more"):
        label_text_head(embed, ["cat", "cat"])
    with pytest.raises(TaskgroveError, match=r'"a cat" needs one \{\}'):
        label_text_head(embed, ["cat", "dog"], ["a cat"])


# --- fine-tunes and merges ------------------------------------------------------------------------


def test_fine_tunes_are_made_once(world, monkeypatch):
    first = fine_tunes.fine_tunes(world)
    monkeypatch.setattr(fine_tunes, "fit", None)  # would fail
    second = fine_tunes.fine_tunes(world)
    for task in TASKS:
        assert all(torch.equal(w, second[task][name]) for name, w in first[task].items())
    base = world.encoder.base()
    assert all(any(not torch.equal(first[t][n], w) for n, w in base.items()) for t in TASKS)


def test_a_fine_tune_learns_its_own_task(world):
    rows = torch.arange(len(world.parts["role"]["train"].labels))
    before = world.loss(world.encoder.base(), {"role": rows}, "train")
    tuned = fine_tunes.fit(world, world.encoder.base(), lambda _: {"role": rows}, [3e-3] * 8)
    assert world.loss(tuned, {"role": rows}, "train") < before - 0.01


def test_rates_rise_and_fall():
    rates = fine_tunes.cosine(20, 1.0)
    assert rates[:2] == [0.5, 1.0]
    assert rates[2:] == sorted(rates[2:], reverse=True)
    assert 0 < rates[-1] < 0.02


def test_the_scale_is_validations_choice(world):
    weights, told = merges.best_arithmetic(world)
    scores = [
        world.accuracy(merges.static(world, "task_arithmetic", scale=scale), "validation")
        for scale in merges.SCALES[::3]
    ]
    assert told["validation"] == scores
    assert told["scale"] == merges.SCALES[3 * int(np.argmax(scores))]
    tau, c = merges.vectors(world), torch.full((len(TASKS),), told["scale"])
    for name, w in weights.items():
        expected = tau.base(name)
        add_scaled(tau.blocks(name), c, expected)
        torch.testing.assert_close(w, expected)


def test_answers_are_in_the_order_of_the_rows(world):
    base, part = world.encoder.base(), world.parts["use"]["test"]
    one = [world.logits(base, "use", part.texts.take(torch.tensor([n]))) for n in range(24)]
    torch.testing.assert_close(
        world.answers(base, "use", "test"), torch.cat(one), atol=1e-4, rtol=0
    )
    some = torch.tensor([7, 2])
    right = world.right(base, "use", "test")
    assert torch.equal(world.right(base, "use", "test", some), right[some])


def test_labels_never_reach_adamerging(world):
    found = merges.learned(world, True)
    parts = {
        task: {name: replace(part, labels=part.labels.flip(0)) for name, part in of_task.items()}
        for task, of_task in world.parts.items()
    }
    blind = merges.learned(replace(world, parts=parts), True)
    assert torch.equal(found.coefficients, blind.coefficients)
    assert not torch.equal(found.coefficients, torch.full_like(found.coefficients, 0.3))


# --- few shots ------------------------------------------------------------------------------------


def test_a_text_probe_held_fast_is_zero_shot(world, monkeypatch):
    rows = few_shots.shots(world, "section", 2)
    zero = world.answers(world.encoder.base(), "section", "test").argmax(1)
    monkeypatch.setattr(few_shots, "TEXT_PROBE", 1e6)
    held = few_shots.probe(world, "section", rows, "test", start=True)
    b = held - world.answers(world.encoder.base(), "section", "test")
    torch.testing.assert_close(b, b[:1].expand_as(b), atol=1e-2, rtol=0)  # only the bias moved
    monkeypatch.setattr(few_shots, "TEXT_PROBE", 1e-4)
    free = few_shots.probe(world, "section", rows, "train", start=True)
    labels = world.parts["section"]["train"].labels
    assert (free.argmax(1) == labels)[rows].all()
    assert len(zero) == len(held)


def test_lora_changes_queries_and_values_by_rank_four(world):
    base, rows = world.encoder.base(), few_shots.shots(world, "section", 2)
    tuned = few_shots.lora(world, "section", rows)
    moved = {name for name, w in tuned.items() if not torch.equal(w, base[name])}
    assert moved == {n for n in base if n.endswith(("query.weight", "value.weight"))}
    for name in moved:
        assert torch.linalg.matrix_rank(tuned[name] - base[name], rtol=1e-4) <= few_shots.RANK
    before, after = (world.loss(W, {"section": rows}, "train") for W in (base, tuned))
    assert after < before


def test_a_single_vector_is_the_best_on_the_shots(world):
    rows = few_shots.shots(world, "section", 2)
    base, chosen = world.encoder.base(), few_shots.single(world, "section", rows)
    least = world.loss(chosen, {"section": rows}, "train")
    tuned = fine_tunes.fine_tunes(world)
    for task in TASKS:
        whole = {name: w.lerp(tuned[task][name], 1.0) for name, w in base.items()}
        assert least <= world.loss(whole, {"section": rows}, "train") + 1e-6


# --- the claims -----------------------------------------------------------------------------------


def test_the_interval_over_rows():
    ours = [{"a": "1111", "b": "1100"}, {"a": "1111", "b": "1100"}]
    theirs = [{"a": "0000", "b": "1100"}, {"a": "0000", "b": "1100"}]
    assert over_rows(ours, theirs) == (50.0, 50.0)  # a: always 100 points; b: none
    low, high = over_rows([{"a": "10" * 50}], [{"a": "01" * 50}])
    assert -30 < low < -10
    assert 10 < high < 30


def test_the_quick_claim_of_adamerging_is_whole():
    told = []
    claim = adamerging.SYSTEM.claim(True, [0], lambda *message: told.append(message))
    assert told[-1][2] == 1
    assert set(claim.scores["debtags"]) == set(adamerging.WAYS)
    assert set(claim.scores["pictures"]) == set(picture_models.WAYS)
    assert all(0 <= s[0] <= 100 for group in claim.scores.values() for s in group.values())
    decides = [s.question for s in claim.statements if s.decides]
    assert decides == [
        "layer_wise is 3 points or more above arithmetic_0.3",
        "layer_wise is not below arithmetic_best",
    ]
    assert Claim.of(claim.to_json()) == claim  # plain values all through
    part = claim.raw["layer_wise"][0]["debtags"]
    assert np.shape(part["coefficients"]) == (6, 32)
    last = {task: pair[1] for task, pair in part["looks"]["4"].items()}
    assert last == pytest.approx(part["test"])  # the last look is the result
    again = adamerging.run("average", 0, True)
    assert again["pictures"] == claim.raw["average"][0]["pictures"]  # repeatable
    assert again["debtags"]["right"] == claim.raw["average"][0]["debtags"]["right"]


def test_adamergings_statements_pair_the_seeds():
    def part(mean):
        test = dict.fromkeys(TASKS, mean)
        whole = {"mean": mean, "test": test, "right": dict.fromkeys(TASKS, "10")}
        whole |= {"looks": {"1": {"role": [1.0, mean]}}, "coefficients": [[0.1, 0.4]] * 6}
        return {"debtags": whole, "pictures": whole}

    found = {arm: [part(60.0), part(70.0)] for arm in adamerging.WAYS}
    found["layer_wise"] = [part(64.0), part(74.5)]
    claim = adamerging.conclude(found, [0, 1])
    assert claim.statements[0].differences == [4.0, 4.5]
    depth = next(s for s in claim.statements if "upper layer" in s.question)
    assert depth.differences == pytest.approx([0.3, 0.3])


def test_the_quick_claim_of_atlas_is_whole():
    claim = atlas.SYSTEM.claim(True, [0])
    assert set(claim.scores["addition"]) == set(atlas.ADDITION)
    assert Claim.of(claim.to_json()) == claim
    zero = claim.raw["zero_shot"][0]
    assert set(zero) == set(TARGETS)
    assert set(zero["section"]) == {"1", "2"}
    assert zero["section"]["1"]["right"] == zero["section"]["2"]["right"]  # needs no shot
    assert claim.raw["atlas"][0]["section"]["2"]["shots"] == 6
    whole = claim.raw["atlas"][0]["section"]["2"]
    assert whole["trained"] == 6 * 32
    trained = [claim.raw[arm][0]["curve"]["trained"] for arm in atlas.PARTS]
    assert trained == [6 * 32 * K for K in atlas.PARTS.values()]
    checked = claim.raw["atlas_checked"][0]["section"]["2"]["right"]
    assert checked in (whole["right"], zero["section"]["2"]["right"])
    assert all(
        "section" in s.question or "addition" in s.question for s in claim.statements if s.decides
    )


def test_no_pool_has_the_targets_own_vector(world):
    assert not set(TASKS) & set(TARGETS)
    assert merges.vectors(world).models == len(TASKS)
    assert set(fine_tunes.fine_tunes(world)) == set(TASKS)


def test_the_cache_is_named_by_code_and_rows():
    mark = debtag_models.mark_of([few_shots], 1)
    assert mark != debtag_models.mark_of([few_shots], 2)
    assert mark != debtag_models.mark_of([merges], 1)
    assert substrate(0, True).mark != substrate(1, True).mark
