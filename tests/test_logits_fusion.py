"""The system logits_fusion: its text, its models and its experiment at tiny sizes."""

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from taskgrove.composing.dynamic_alpha import Rule
from taskgrove.composing.scored_text import Text, best_static, read_text, windows
from taskgrove.errors import TaskgroveError
from taskgrove.suites import text_kinds, text_models
from taskgrove.suites.text_kinds import KINDS, documents
from taskgrove.suites.text_splits import mixture, part, split
from taskgrove.systems import logits_fusion as system
from tiny_language_models import tiny_model

# --- the text -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_is_real_text_without_copies(kind):
    found = documents(kind)
    assert text_kinds.MOST // 4 <= sum(map(len, found)) <= text_kinds.MOST + text_kinds.PART
    assert len({"".join(text.split()) for text in found}) == len(found)
    assert all(len(text) > 200 for text in found)
    sign = {"python": "def ", "headers": "#include", "yaml": "- func:", "docs": "Returns\n-----",
            "prose": "the ", "cython": "cdef "}[kind]  # fmt: skip
    assert np.mean([sign in text for text in found]) > 0.3


def test_a_kind_that_lacks_is_told(monkeypatch):
    monkeypatch.setitem(KINDS, "yaml", lambda: iter(["- func: add\n" * 40]))
    documents.cache_clear()
    with pytest.raises(TaskgroveError, match='480 characters of the kind "yaml" in this install'):
        documents("yaml")
    documents.cache_clear()
    with pytest.raises(TaskgroveError, match=r'no text of the kind "yam".* Did you mean "yaml"'):
        documents("yam")


def _all(texts):
    return {text for each in texts.values() for text in each}


def test_no_document_is_read_by_two():
    counts = {"test": 9_000, "validation": 9_000, "train": 90_000}
    drawn = {seed: split("yaml", seed, counts) for seed in (-1, 0, 1)}
    for texts in drawn.values():
        sets = [set(texts[name]) for name in counts]
        assert not sets[0] & sets[1] | sets[0] & sets[2] | sets[1] & sets[2]
        for name, count in counts.items():
            size = sum(map(len, texts[name]))
            assert count <= size < count + text_kinds.PART + 200
    base, developed = set(mixture(["yaml"])), _all(drawn[-1])
    seeds = _all(drawn[0]) | _all(drawn[1])
    assert not base & developed | base & seeds | developed & seeds
    assert drawn[0]["test"] != drawn[1]["test"]
    assert drawn[0] == split("yaml", 0, counts)
    assert {*part("yaml", 0), *part("yaml", 1), *part("yaml", 2)} == set(documents("yaml"))


# --- the models -----------------------------------------------------------------------------------


def test_base_models_are_kept_and_share_a_vocabulary():
    tokenizer, large, small = system.base(True)
    text = "for n in range(3):\n    print('é', n)\n"
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids) == text
    assert int(text_models.bytes_of(tokenizer)[ids].sum()) == len(text.encode())
    assert large.num_parameters() > 5 * small.num_parameters()
    again = text_models.pretrained(mixture(system.KINDS, most=3), system.QUICK.base)
    kept = AutoTokenizer.from_pretrained(again / "small")
    assert kept.get_vocab() == tokenizer.get_vocab()
    assert len(list(again.parent.iterdir())) == 1  # not trained twice


def test_training_lowers_the_loss_and_leaves_the_base_alone():
    tokenizer, _, small = system.base(True)
    data = text_models.tokens_of(tokenizer, part("yaml", 2)[:4])
    before = {name: value.clone() for name, value in small.state_dict().items()}
    expert = system.tuned(small, data, 8, 0)
    assert all(torch.equal(before[name], value) for name, value in small.state_dict().items())
    text = read_text(
        windows(data[:600], 128), text_models.bytes_of(tokenizer), small, small, [expert]
    )
    assert text.score(text.experts[0])["bits"] < text.score(text.small)["bits"] - 0.1
    whole = text.fused(Rule(alpha=1.0), 0)
    assert whole["bits"] == pytest.approx(text.score(text.experts[0])["bits"], rel=1e-4)
    none = text.fused(Rule(alpha=0.0))
    assert none["bits"] == pytest.approx(text.score(text.small)["bits"], rel=1e-4)


def test_bits_per_byte_are_counted_by_hand():
    model, rows = tiny_model("llama", 12, seed=0, width=16), torch.randint(12, (3, 9))
    sizes = torch.arange(12)
    text = read_text(rows, sizes, model, model, [model])
    bits = 0.0
    for row in rows:
        log_p = model(row[None]).logits[0].log_softmax(-1)
        bits -= sum(log_p[n, row[n + 1]].item() for n in range(8)) / np.log(2)
    found = text.score(text.large)
    assert found["bits"] == pytest.approx(bits / sizes[rows[:, 1:]].sum().item(), rel=1e-4)


# --- the claim ------------------------------------------------------------------------------------


def test_the_quick_claim_runs_and_is_whole():
    claim = system.SYSTEM.claim(True, [0])
    assert list(claim.scores) == ["known kind", "unknown kind", "unseen kind"]
    known, unknown = claim.scores["known kind"], claim.scores["unknown kind"]
    assert {*system.ONE, "static", "small_expert", "large_base", "tuned_large"} <= set(known)
    assert {*system.SEVERAL, "static", "large_base"} <= set(unknown)
    assert all(0 < bits[0] < 16 for arms in claim.scores.values() for bits in arms.values())
    assert known["small_expert"] < known["small_base"]
    assert known["large_base"] == unknown["large_base"]
    (part_,) = claim.raw["fused"]
    assert all(value in system.STATIC for value in part_["chosen"].values())
    assert len(part_["unknown"]["cython"]["dynamic"]["alpha"]) == len(system.KINDS)
    again = system.fused(0, True)
    assert again["unknown"] == part_["unknown"]  # repeatable
    decides = [statement for statement in claim.statements if statement.decides]
    assert [statement.least for statement in decides] == [0.0, 50.0, 0.03, 0.0]


def test_statements_are_read_from_the_right_arms():
    """Bits that are given: what is less is better, and gaps are shares."""
    arms = {"large_base": 4.0, "small_base": 5.0, "small_expert": 3.5, "proxy_tuning": 3.0,
            "dynamic": 2.5, "static": 2.7, "uniform": 3.2, "joint_ours": 2.4}  # fmt: skip
    kinds = (*system.KINDS, system.UNSEEN)
    scores = {k: {arm: {"bits": b, "accuracy": 10 * b} for arm, b in arms.items()} for k in kinds}
    by_alpha = {kind: [1.0] * len(system.STATIC) for kind in kinds}
    found = {
        "fused": [{"known": scores, "unknown": scores, "by_alpha": by_alpha}] * 2,
        "tuned_large": [{kind: {"tuned": {"bits": 2.0}} for kind in kinds}] * 2,
    }
    claim = system.conclude(found, [0, 1])
    effects = [s.effect for s in claim.statements]
    assert effects[:4] == pytest.approx([0.5, 75.0, 0.7, 0.2])
    named = {s.question: s.effect for s in claim.statements}
    assert named["known kind: dynamic is below small_expert"] == pytest.approx(1.0)
    assert named["unseen kind: joint_ours is below static"] == pytest.approx(0.3)
    assert effects[-1] == pytest.approx(-5.0)  # accuracy: more is better
    assert claim.verdict == "holds"


def test_validation_alone_chooses_static_alpha(monkeypatch):
    """The value with the fewest bits on the given texts, over all of them together."""
    rng, texts = torch.Generator().manual_seed(0), []
    for strength in (1.0, 6.0):  # how well the experts know the text
        logits, target = torch.randn(4, 50, 9, generator=rng), torch.randint(9, (50,))
        logits[2:, torch.arange(50), target] += strength
        texts.append(Text(logits[0], logits[1], logits[2:], target, 100))
    bits = [[text.fused(Rule(alpha=a))["bits"] for a in system.STATIC] for text in texts]
    for chosen in ([0], [1], [0, 1]):
        together = np.sum([bits[n] for n in chosen], 0)
        best = best_static([texts[n] for n in chosen], [None] * len(chosen), system.STATIC)
        assert best == system.STATIC[together.argmin()]
    assert np.argmin(bits[0]) != np.argmin(bits[1])  # or this shows nothing
    asked = []
    monkeypatch.setattr(system, "best_static", lambda texts, *_: asked.append(texts) or 0.5)
    real, drawn = system.draw, {}

    def remember(kind, *rest):
        drawn[kind] = real(kind, *rest)
        return drawn[kind]

    monkeypatch.setattr(system, "draw", remember)
    found = system.fused(0, True)
    assert set(found["chosen"].values()) == {0.5}
    validation = windows(drawn["yaml"]["validation"], 128)[:, 1:].flatten()
    assert torch.equal(asked[2][0].next, validation)
    assert len(asked[-1]) == len(system.KINDS)
