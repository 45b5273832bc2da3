"""Ranking metrics and nearest neighbours: their obvious twins, values worked out by hand, edges."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from reference import embedding as twin
from taskgrove.errors import TaskgroveError
from taskgrove.measuring.neighbours import knn_accuracy
from taskgrove.measuring.pair_score import pair_score
from taskgrove.measuring.retrieval import (
    average_precision_at_k,
    ndcg,
    ranked_gains,
    recall_at_k,
    reciprocal_rank,
)
from taskgrove.tasks.pairs import Pairs

METRICS = {
    recall_at_k: twin.recall,
    reciprocal_rank: twin.reciprocal_rank,
    ndcg: twin.ndcg,
    average_precision_at_k: twin.average_precision,
}
SHAPE = st.tuples(st.integers(1, 4), st.integers(1, 7))


@st.composite
def rankings(draw):
    """Scores with ties, graded gains with queries that have none."""
    shape = draw(SHAPE)
    scores = draw(arrays(float, shape, elements=st.integers(-2, 2).map(float)))
    gains = draw(arrays(int, shape, elements=st.sampled_from([0, 0, 1, 3])))
    return scores, gains


@pytest.mark.parametrize("metric", METRICS)
@given(data=rankings(), k=st.one_of(st.integers(1, 9), st.none()))
def test_as_the_twin_says(metric, data, k):
    scores, gains = data
    k = k or scores.shape[1]
    for got, s, g in zip(metric(scores, gains, k), scores, gains, strict=True):
        if g.any():
            assert got == pytest.approx(METRICS[metric](s.tolist(), g.tolist(), k))
            assert 0 <= got <= 1 + 1e-12
        else:
            assert math.isnan(got)


def test_by_hand():
    """Ranking: b (gain 1), a (0), d (3), c (0), e (1)."""
    scores = np.array([[0.8, 0.9, 0.6, 0.7, 0.1]])
    gains = np.array([[0, 1, 0, 3, 1]])
    assert ranked_gains(scores, gains).tolist() == [[1, 0, 3, 0, 1]]
    assert recall_at_k(scores, gains, 3) == pytest.approx([2 / 3])
    assert reciprocal_rank(scores, gains) == pytest.approx([1.0])
    assert reciprocal_rank(-scores, gains) == pytest.approx([1.0])
    best = 3 + 1 / math.log2(3) + 1 / 2
    assert ndcg(scores, gains, None) == pytest.approx([(1 + 3 / 2 + 1 / math.log2(6)) / best])
    assert ndcg(scores, gains, 1) == pytest.approx([1 / 3])
    assert average_precision_at_k(scores, gains) == pytest.approx([(1 + 2 / 3 + 3 / 5) / 3])
    assert average_precision_at_k(scores, gains, 3) == pytest.approx([(1 + 2 / 3) / 3])


def test_the_textbooks_example():
    """A query with relevant documents at ranks 1, 3 and 5: precision 1, 2/3 and 3/5."""
    scores, gains = np.arange(5, 0, -1.0)[None], np.array([[1, 0, 1, 0, 1]])
    assert average_precision_at_k(scores, gains) == pytest.approx([0.7555556])


@pytest.mark.parametrize("metric", METRICS)
@given(data=rankings())
def test_order_of_the_candidates_does_not_matter(metric, data):
    scores, gains = data
    turn = np.random.default_rng(0).permutation(scores.shape[1])
    got = metric(scores[:, turn], gains[:, turn], 3)
    np.testing.assert_allclose(got, metric(scores, gains, 3))


@pytest.mark.parametrize("metric", METRICS)
def test_saying_nothing_earns_nothing(metric):
    """All scores equal, or NaN: the relevant one is last."""
    gains = np.array([[1, 0, 0, 0]])
    for nothing in (0.0, np.nan):
        assert metric(np.full((1, 4), nothing), gains, 3) == pytest.approx([0.0])
    assert metric(np.array([[0.1, np.nan, np.nan, np.nan]]), gains, 1) == pytest.approx([1.0])


@pytest.mark.parametrize(("k", "gain", "sentence"), [(0, 1, "k is 0"), (1, -1, "a gain is -1")])
def test_mistakes_are_told(k, gain, sentence):
    with pytest.raises(TaskgroveError, match=sentence):
        ndcg(np.zeros((1, 2)), np.array([[0, gain]]), k)


# --- neighbours -----------------------------------------------------------------------------------


@given(st.integers(0, 10**6), st.integers(2, 12), st.integers(1, 4), st.booleans())
def test_votes_are_the_twins(seed, rows, k, leave_out):
    random = np.random.default_rng(seed)
    X, y = random.normal(size=(rows, 3)), random.integers(0, 3, rows)
    R, y_R = (X, y) if leave_out else (random.normal(size=(9, 3)), random.integers(0, 3, 9))
    k = min(k, rows - 1)
    right = 0
    for i, x in enumerate(X):
        others = [j for j in range(len(R)) if not (leave_out and j == i)]
        cosines = [x @ R[j] / np.linalg.norm(x) / np.linalg.norm(R[j]) for j in others]
        right += twin.nearest_vote(cosines, [y_R[j] for j in others], k) == y[i]
    known = None if leave_out else (R, y_R)
    assert knn_accuracy(X, y, k, known) == pytest.approx(right / rows)


def test_lengths_do_not_matter():
    X = np.random.default_rng(0).normal(size=(20, 4))
    y = np.arange(20) % 2
    longer = X * np.arange(1, 21)[:, None]
    assert knn_accuracy(X, y, 5) == knn_accuracy(longer, y, 5)


def test_a_row_does_not_vote_for_itself():
    X, y = np.array([[1.0, 0], [0, 1.0]]), np.array([0, 1])
    assert knn_accuracy(X, y, 1) == 0.0
    assert knn_accuracy(X, y, 1, (X, y)) == 1.0


def test_too_many_neighbours_are_refused():
    with pytest.raises(TaskgroveError, match="k is 3; expected 1 to 2"):
        knn_accuracy(np.eye(3), np.arange(3), 3)


# --- the number of a task -------------------------------------------------------------------------

VECTORS = {
    "a": [1, 0, 0], "A": [0.9, 0.1, 0], "b": [0, 1, 0], "B": [0, 0.9, 0.1], "c": [0, 0, 1],
}  # fmt: skip


def embed(texts):
    found = np.array([VECTORS[text] for text in texts], float)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def test_partners_are_ranked_among_all_seconds():
    assert pair_score(embed, Pairs("t", ["a", "b"], ["A", "B"])) == 100
    crossed = pair_score(embed, Pairs("t", ["a", "b"], ["B", "A"]))
    assert crossed == pytest.approx(100 / math.log2(3))


def test_a_query_with_two_partners_is_one_query():
    """And a second text that two queries share is one candidate."""
    assert pair_score(embed, Pairs("t", ["a", "a", "b"], ["A", "a", "B"])) == pytest.approx(100)
    assert pair_score(embed, Pairs("t", ["a", "A"], ["c", "c"])) == pytest.approx(100)


def test_classes_and_grades():
    classes = Pairs("t", ["a", "A", "b", "B"], classes=[0, 0, 1, 1])
    assert pair_score(embed, classes) == 0  # of three others, two are of the other class
    graded = Pairs("t", ["a", "a", "a"], ["A", "b", "c"], grades=[3.0, 2.0, 1.0])
    falling = Pairs("t", ["a", "a", "a"], ["b", "A", "a"], grades=[1.0, 2.0, 3.0])
    assert pair_score(embed, graded) == pytest.approx(100 * 0.8660254)
    assert pair_score(embed, falling) == pytest.approx(100)
