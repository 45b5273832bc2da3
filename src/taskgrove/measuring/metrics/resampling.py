"""Sums and ratios over resampled rows, from which the weighted twins are made.

A twin works on `drawn` = weights transposed, [row resample]: then the sum over a group of rows adds
whole lines of memory, and one sparse product does it for every group and resample.
"""

import numpy as np
from jaxtyping import Float, Integer
from scipy.sparse import csr_array


def by_row(weights: Float[np.ndarray, "resample row"]) -> Float[np.ndarray, "row resample"]:
    return np.ascontiguousarray(weights.T)


def sum_by_group(
    drawn: Float[np.ndarray, "row resample"], group: Integer[np.ndarray, " row"], groups: int
) -> Float[np.ndarray, "group resample"]:
    """Adds up the rows of each group; a row whose group is -1 is in none."""
    rows = np.flatnonzero(group >= 0)
    member = csr_array((np.ones(len(rows)), (group[rows], rows)), shape=(groups, len(group)))
    return member @ drawn


def ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """`above / below`, and NaN where `below` is zero."""
    empty = np.full(np.broadcast_shapes(above.shape, below.shape), np.nan)
    return np.divide(above, below, out=empty, where=below != 0)


def mean_defined(values: np.ndarray) -> np.ndarray:
    """The mean over the first axis of what is not NaN; NaN where nothing is."""
    defined = ~np.isnan(values)
    return ratio(np.where(defined, values, 0.0).sum(0), defined.sum(0))
