"""How good text embeddings are for a task of pairs, 0 to 100: one number by kind.

partners  nDCG@10 of the second texts of all rows, asked by the first    (see retrieval)
classes   accuracy of the 10 nearest other rows                          (see neighbours)
graded    Spearman's correlation of cosine and grade
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from taskgrove.measuring.metrics.spearman import SPEARMAN
from taskgrove.measuring.neighbours import knn_accuracy
from taskgrove.measuring.retrieval import ndcg
from taskgrove.tasks.pairs import Pairs

MEASURE = {"partners": "nDCG@10", "classes": "10-NN accuracy", "graded": "Spearman"}
NEAR = 10
Vectors = Float[np.ndarray, "text dim"]


def pair_score(embed: Callable[[list[str]], Vectors], pairs: Pairs) -> float:
    """`embed` gives vectors of unit length; equal second texts are equally right."""
    q = embed(list(pairs.first))
    if pairs.kind == "classes":
        return 100 * knn_accuracy(q, np.asarray(pairs.classes), min(NEAR, len(q) - 1))
    k = embed(list(pairs.second))
    if pairs.kind == "graded":
        return 100 * SPEARMAN.score((q * k).sum(1), np.asarray(pairs.grades, dtype=float))
    texts, place = np.unique(np.asarray(pairs.second, dtype=object), return_index=True)
    asked, row = np.unique(np.asarray(pairs.first, dtype=object), return_inverse=True)
    gains = np.zeros((len(asked), len(texts)))
    gains[row, np.searchsorted(texts, np.asarray(pairs.second, dtype=object))] = 1
    first = np.unique(row, return_index=True)[1]
    return 100 * float(np.nanmean(ndcg(q[first] @ k[place].T, gains)))
