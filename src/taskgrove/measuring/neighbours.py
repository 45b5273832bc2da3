"""k nearest neighbours: do texts of one class lie together? No classifier is trained.

Cover and Hart, "Nearest Neighbor Pattern Classification", IEEE Trans. Information Theory 1967; as a
test of frozen features: Wu et al., "Unsupervised Feature Learning via Non-Parametric Instance
Discrimination", CVPR 2018, arXiv 1805.01978.

    accuracy = mean_i [ vote of the k rows most like row i  =  y_i ],   likeness: the cosine

    X [row dim]; y [row], class numbers; R [known dim], y_R [known]: the rows that vote

Without R each row is judged by the others of X (leave one out). The class with most votes wins; of
classes with as many votes, the one whose voters are more like the row in sum.
Difference from the papers: nothing but that rule for equal votes.
"""

import numpy as np
from jaxtyping import Float, Int

from taskgrove.errors import TaskgroveError


def knn_accuracy(
    X: Float[np.ndarray, "row dim"],
    y: Int[np.ndarray, " row"],
    k: int = 10,
    known: tuple[Float[np.ndarray, "known dim"], Int[np.ndarray, " known"]] | None = None,
) -> float:
    """The share of rows whose neighbours vote for their class.

    >>> X = np.array([[1.0, 0], [1, 0.1], [0, 1], [0.1, 1]])
    >>> knn_accuracy(X, np.array([0, 0, 1, 1]), k=1)
    1.0
    """
    R, y_R = (X, y) if known is None else known
    most = len(R) - (known is None)
    if not 1 <= k <= most:
        raise TaskgroveError(f"k is {k}; expected 1 to {most}, as many rows as can vote.")
    likeness = _unit(X) @ _unit(R).T  # [row known]
    if known is None:
        np.fill_diagonal(likeness, -np.inf)
    near = np.argsort(-likeness, axis=1, kind="stable")[:, :k]  # [row k]
    return float((_vote(np.take_along_axis(likeness, near, 1), y_R[near]) == y).mean())


def _vote(
    likeness: Float[np.ndarray, "row k"], classes: Int[np.ndarray, "row k"]
) -> Int[np.ndarray, " row"]:
    """The winning class of each row."""
    same = classes[:, :, None] == classes[:, None, :]  # [row k k]
    votes, sums = same.sum(2), (same * likeness[:, None, :]).sum(2)  # [row k]
    best = np.lexsort((-sums, -votes), axis=1)[:, 0]
    return np.take_along_axis(classes, best[:, None], 1)[:, 0]


def _unit(X: Float[np.ndarray, "row dim"]) -> Float[np.ndarray, "row dim"]:
    return X / np.maximum(np.linalg.norm(X, axis=1, keepdims=True), np.finfo(X.dtype).tiny)
