"""Singular values and vectors of task matrices, without the directions that are only rounding."""

import numpy as np

from taskgrove.errors import TaskgroveError
from taskgrove.merging.static.static import Array
from taskgrove.shapes import Float

WIDEST = 30_000  # more rows or columns are a vocabulary's, not a layer's


def layers(shape: tuple[int, ...]) -> bool:
    """Whether a tensor is a layer's matrix: vectors, convolutions and large vocabularies are not.

    >>> layers((4096, 11008)), layers((151936, 896)), layers((768,))
    (True, False, False)
    """
    return len(shape) == 2 and max(shape) < WIDEST


def svd(
    matrix: Float[Array, "row column"], name: str, most: int | None = None
) -> tuple[Float[Array, "row rank"], Float[Array, " rank"], Float[Array, "rank column"]]:
    """U, sigma, V^T of the numerical rank, at most `most`, the largest first."""
    try:
        U, sigma, V = np.linalg.svd(matrix, full_matrices=False)
    except np.linalg.LinAlgError:
        raise TaskgroveError(
            f'the singular values of "{name}" cannot be computed; expected finite weights.'
        ) from None
    least = np.finfo(matrix.dtype).eps * max(matrix.shape) * sigma.max(initial=0)
    rank = int((sigma > least).sum())
    rank = rank if most is None else min(rank, most)
    return U[:, :rank], sigma[:rank], V[:rank]
