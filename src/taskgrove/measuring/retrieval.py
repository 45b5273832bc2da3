"""Retrieval: how near the top of a ranking the relevant candidates stand, one value a query.

Järvelin and Kekäläinen, "Cumulated gain-based evaluation of IR techniques", ACM TOIS 2002 (nDCG);
Voorhees, TREC-8, 1999 (reciprocal rank); the rest as in trec_eval, https://github.com/usnistgov.

    recall@k = |relevant among the first k| / |relevant|
    RR@k     = 1 / rank of the first relevant one, 0 where it is beyond k
    nDCG@k   = DCG@k / the best possible DCG@k,   DCG@k = sum_{r <= k} gain_r / log2(r + 1)
    AP@k     = sum_{r <= k, relevant} precision@r / min(|relevant|, k)

    scores [query candidate], larger is better; gains [query candidate], 0 is not relevant

Their means over queries are recall, MRR, nDCG and MAP. A query without a relevant candidate has no
value: NaN. Candidates with equal scores are ranked with the relevant last, so that a model which
finds everything alike gains nothing by it; a score that is NaN ranks below all.
Difference from trec_eval: these ties, and graded gains count as they are (not 2^gain - 1).
"""

import numpy as np
from jaxtyping import Float, Real

from taskgrove.errors import TaskgroveError

Scores = Float[np.ndarray, "query candidate"]
Gains = Real[np.ndarray, "query candidate"]
PerQuery = Float[np.ndarray, " query"]


def recall_at_k(scores: Scores, gains: Gains, k: int = 10) -> PerQuery:
    """The share of the relevant candidates that the first k hold."""
    ranked = ranked_gains(scores, gains, k) > 0
    return _share(ranked.sum(1), (gains > 0).sum(1))


def reciprocal_rank(scores: Scores, gains: Gains, k: int | None = None) -> PerQuery:
    """1 over the rank of the first relevant candidate.

    >>> reciprocal_rank(np.array([[0.9, 0.8, 0.1]]), np.array([[0, 1, 1]])).tolist()
    [0.5]
    """
    ranked = ranked_gains(scores, gains, k) > 0
    first = np.where(ranked.any(1), 1 / (ranked.argmax(1) + 1), 0.0)
    return np.where((gains > 0).any(1), first, np.nan)


def ndcg(scores: Scores, gains: Gains, k: int | None = 10) -> PerQuery:
    """Gains discounted by rank, over the best order's."""
    ranked = ranked_gains(scores, gains, k)
    discount = 1 / np.log2(np.arange(ranked.shape[1]) + 2)  # [rank]
    best = -np.sort(-gains.astype(float), axis=1)[:, : ranked.shape[1]]
    return _share(ranked @ discount, best @ discount)


def average_precision_at_k(scores: Scores, gains: Gains, k: int | None = None) -> PerQuery:
    """The mean precision at the ranks of the relevant candidates."""
    ranked = ranked_gains(scores, gains, k) > 0
    precision = ranked.cumsum(1) / np.arange(1, ranked.shape[1] + 1)  # [query rank]
    possible = np.minimum((gains > 0).sum(1), ranked.shape[1])
    return _share((precision * ranked).sum(1), possible)


def ranked_gains(
    scores: Scores, gains: Gains, k: int | None = None
) -> Float[np.ndarray, "query rank"]:
    """The gains in the order of the scores, the first k of them."""
    if k is not None and k < 1:
        raise TaskgroveError(f"k is {k}; expected 1 or more candidates to look at.")
    if (gains < 0).any():
        raise TaskgroveError(f"a gain is {gains.min()}; expected 0 (not relevant) or above.")
    known = np.where(np.isnan(scores), -np.inf, scores)
    order = np.lexsort((gains, -known), axis=1)[:, :k]  # by score, then the relevant last
    return np.take_along_axis(gains.astype(float), order, axis=1)


def _share(part: np.ndarray, whole: np.ndarray) -> PerQuery:
    none = whole == 0
    return np.where(none, np.nan, part / np.where(none, 1, whole))
