"""Contrastive losses: obvious twins, values worked out by hand, batches of pairs."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy, normalize

from reference import embedding as twin
from taskgrove.errors import TaskgroveError
from taskgrove.objectives.cosent import cosent
from taskgrove.objectives.info_nce import info_nce, partners
from taskgrove.objectives.pair_loss import pair_loss
from taskgrove.tasks.pairs import Draw, PairBatch, Pairs

SEEDS = st.integers(0, 10**6)


def random(seed, a, b, dim=5):
    generator = torch.Generator().manual_seed(seed)
    q, k = (torch.randn(n, dim, generator=generator) for n in (a, b))
    positives, allowed = (torch.rand(a, b, generator=generator) < p for p in (0.3, 0.7))
    return q, k, positives, allowed


# --- InfoNCE --------------------------------------------------------------------------------------


@given(SEEDS, st.integers(1, 5), st.integers(1, 6))
def test_info_nce_is_the_twin(seed, a, b):
    q, k, positives, allowed = random(seed, a, b)
    s = (normalize(q, dim=1) @ normalize(k, dim=1).T / 0.3).tolist()
    expected = [
        twin.info_nce_row(*row) for row in zip(s, positives.tolist(), allowed.tolist(), strict=True)
    ]
    got = info_nce(q, k, positives, allowed, temperature=0.3)
    torch.testing.assert_close(got, torch.tensor(expected), atol=2e-5, rtol=2e-5)


def test_with_one_positive_it_is_cross_entropy():
    q, k, _, _ = random(0, 4, 7)
    s = normalize(q, dim=1) @ normalize(k, dim=1).T / 0.05
    got = info_nce(q, k, partners(4, 7))
    torch.testing.assert_close(got, cross_entropy(s, torch.arange(4), reduction="none"))


def test_info_nce_by_hand():
    """Cosines 0.6 (positive), 0.8, 0 and -1; the last not allowed. Temperature 1/2."""
    q = torch.tensor([[1.0, 0.0]])
    k = torch.tensor([[3.0, 4.0], [4.0, 3.0], [0.0, 2.0], [-1.0, 0.0]])
    positives = torch.tensor([[True, False, False, False]])
    allowed = torch.tensor([[True, True, True, False]])
    expected = math.log(1 + math.exp(0.4) + math.exp(-1.2))
    assert info_nce(q, k, positives, allowed, 0.5).item() == pytest.approx(expected)


@given(SEEDS)
def test_a_bank_appends_columns_and_masked_ones_are_absent(seed):
    q, k, positives, allowed = random(seed, 3, 5)
    bank = torch.randn(4, 5, generator=torch.Generator().manual_seed(seed))
    no = torch.zeros(3, 4, dtype=torch.bool)
    both, wide = torch.cat([k, bank]), torch.cat([positives, no], 1)
    longer = info_nce(q, both, wide, torch.cat([allowed, no], 1))
    torch.testing.assert_close(longer, info_nce(q, k, positives, allowed))
    assert (info_nce(q, both, wide, torch.cat([allowed, ~no], 1)) >= longer).all()


@given(SEEDS, st.floats(0.1, 10))
def test_lengths_and_the_order_of_columns_do_not_matter(seed, length):
    q, k, positives, allowed = random(seed, 3, 5)
    turn = torch.randperm(5, generator=torch.Generator().manual_seed(seed))
    turned = info_nce(length * q, k[turn], positives[:, turn], allowed[:, turn])
    torch.testing.assert_close(turned, info_nce(q, k, positives, allowed), atol=1e-4, rtol=1e-4)


def test_rows_without_positive_or_negative_are_no_trouble():
    q, k = torch.eye(2).requires_grad_(), torch.eye(2)
    none, every = torch.zeros(2, 2, dtype=torch.bool), torch.ones(2, 2, dtype=torch.bool)
    for positives, allowed in [(none, every), (every, every), (partners(2, 2), none)]:
        loss = info_nce(q, k, positives, allowed)
        assert loss.tolist() == [0.0, 0.0]
        (gradient,) = torch.autograd.grad(loss.sum(), q)
        assert not gradient.any()


def test_a_cold_temperature_stays_finite():
    q = torch.eye(3, requires_grad=True)
    loss = info_nce(q, torch.eye(3).flip(0), partners(3, 3), temperature=1e-4).sum()
    loss.backward()
    assert loss.isfinite()
    assert q.grad is not None
    assert q.grad.isfinite().all()


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan])
def test_a_temperature_is_above_zero(temperature):
    with pytest.raises(TaskgroveError, match="the temperature is"):
        info_nce(torch.eye(2), torch.eye(2), partners(2, 2), temperature=temperature)
    with pytest.raises(TaskgroveError, match="the temperature is"):
        cosent(torch.ones(2), torch.ones(2), temperature)


# --- CoSENT ---------------------------------------------------------------------------------------


@given(SEEDS, st.integers(1, 7))
def test_cosent_is_the_twin(seed, pairs):
    generator = torch.Generator().manual_seed(seed)
    c = torch.rand(pairs, generator=generator) * 2 - 1
    y = torch.randint(0, 4, (pairs,), generator=generator).float()
    expected = twin.cosent(c.tolist(), y.tolist(), 0.2)
    assert cosent(c, y, 0.2).item() == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_cosent_by_hand():
    """Of three pairs, the second should be above the others and is below the third by 0.1."""
    c, y = torch.tensor([0.2, 0.5, 0.6]), torch.tensor([1.0, 2.0, 1.0])
    expected = math.log(1 + math.exp(-3.0) + math.exp(1.0))
    assert cosent(c, y, 0.1).item() == pytest.approx(expected)


def test_only_the_order_of_grades_matters():
    c, y = torch.tensor([0.1, 0.7, -0.3, 0.2]), torch.tensor([1.0, 4.0, 2.0, 2.0])
    assert cosent(c, y) == cosent(c, 10 * y.square() - 3)
    assert cosent(c, torch.ones(4)) == 0


# --- batches --------------------------------------------------------------------------------------

VECTORS = {word: normalize(torch.randn(6, generator=torch.Generator().manual_seed(n)), dim=0)
           for n, word in enumerate("abcdefgh")}  # fmt: skip


def embed(texts):
    return torch.stack([VECTORS[text] for text in texts])


def masked(batch, allowed):
    k = embed(batch.second + batch.hard)
    q = embed(batch.first)
    return info_nce(q, k, partners(len(q), len(k)), torch.tensor(allowed)).mean()


def test_equal_positives_and_equal_queries_are_no_negatives():
    pairs = Pairs("t", ["a", "b", "a"], ["c", "c", "d"], ["e", "", "c"])
    batch = next_batch(pairs, ["a", "b", "a"])
    assert batch.hard in (["e", "c"], ["c", "e"])
    allowed = [
        [
            not (i == j if j < 3 else False)
            and key != batch.second[i]
            and not (j < 3 and batch.first[j] == batch.first[i])
            for j, key in enumerate(batch.second + batch.hard)
        ]
        for i in range(3)
    ]
    torch.testing.assert_close(pair_loss(embed, batch), masked(batch, allowed))


def next_batch(pairs, expected):
    batch = Draw(pairs, 3, seed=0)()
    assert sorted(batch.first) == sorted(expected)
    return batch


def test_one_class_is_no_negative_of_itself():
    pairs = Pairs("t", list("abcdef"), classes=[0, 0, 1, 1, 2, 2])
    batch = Draw(pairs, 4, seed=1)()
    label = dict(zip(pairs.first, pairs.classes, strict=True))
    mate = dict(zip("abcdef", "badcfe", strict=True))
    assert batch.second == [mate[text] for text in batch.first]
    allowed = [[label[q] != label[k] for k in batch.second] for q in batch.first]
    torch.testing.assert_close(pair_loss(embed, batch), masked(batch, allowed))


def test_graded_pairs_take_cosent():
    batch = PairBatch(["a", "b", "c"], ["d", "e", "f"], grades=[0.0, 1.0, 0.5])
    c = (embed(batch.first) * embed(batch.second)).sum(1)
    expected = cosent(c, torch.tensor(batch.grades))
    torch.testing.assert_close(pair_loss(embed, batch), expected)


@given(st.integers(1, 9), st.integers(1, 12), SEEDS)
def test_a_stream_reads_every_row_before_any_twice(rows, size, seed):
    pairs = Pairs("t", [str(n) for n in range(rows)], [f"p{n}" for n in range(rows)])
    draw = Draw(pairs, size, seed)
    whole = rows // draw.size
    seen = [text for _ in range(whole) for text in draw().first]
    assert len(set(seen)) == len(seen) == whole * draw.size
    again = Draw(pairs, size, seed)
    seconds = [text for _ in range(whole) for text in again().second]
    assert seconds == [f"p{text}" for text in seen]


def test_a_class_of_one_is_its_own_partner():
    batch = Draw(Pairs("t", ["a", "b"], classes=[0, 1]), 2, 0)()
    assert batch.second == batch.first
