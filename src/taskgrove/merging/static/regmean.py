"""RegMean: the linear layer whose outputs are nearest to those of every model's own.

Jin, Ren, Preotiuc-Pietro, Cheng, "Dataless Knowledge Fusion by Merging Weights of Language Models",
ICLR 2023, arXiv 2212.09849. For each linear layer, the merged weight minimises the squared distance
to each model's outputs on that model's own inputs; only the inputs' Gram matrices are needed.

    G_k = X_k^T X_k / rows                    X_k: inputs of the layer in model k
    Gh_k = alpha G_k + (1 - alpha) diag(G_k)
    W = (sum_k Gh_k)^-1 sum_k Gh_k W_k        minimises sum_k ||X_k W - X_k W_k||^2 at alpha = 1
    W - W_0 = (sum_k Gh_k)^-1 sum_k Gh_k tau_k

    G, Gh: [in in]; W_0, W_k, W, tau_k: [in out]; biases, norms and embeddings: the mean

Differs from the paper: G is a mean over rows, not a sum, so models count alike whatever rows they
had; and a ridge of RIDGE times each input's own diagonal pulls to the mean, which alone decides for
inputs that are 0 in every model. Memory: [in in] in float64 and in fp32. No base is needed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np

from taskgrove.errors import TaskgroveError
from taskgrove.merging.static.singular import layers
from taskgrove.merging.static.static import Array, At, Static
from taskgrove.shapes import Float

RIDGE = 1e-6


@dataclass(frozen=True)
class Parameters:
    """Of RegMean."""

    alpha: Annotated[float, "Of what is beside the Gram matrices' diagonal, 0 to 1."] = 0.9

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise TaskgroveError(f"alpha is {self.alpha}; expected a number from 0 to 1, like 0.9.")


def regmean(
    base: Float[Array, "row column"],
    deltas: Sequence[Array],
    parameters: Parameters,
    at: At,
) -> Float[Array, "row column"]:
    """One merged matrix, [out in] or, where its Gram matrix is [1 in in], [in out]."""
    first = at.beside["gram"][0]
    turned, size = first.ndim == 2, first.shape[-1]  # turned: the weight is [out in]
    del first  # one Gram matrix at a time
    total = np.zeros((size, size))  # sum_k Gh_k
    right = np.zeros(base.shape[::-1] if turned else base.shape)  # sum_k Gh_k tau_k, [in out]
    mean = np.zeros(right.shape)
    for k in range(len(deltas)):
        G = shrunk(at.beside["gram"][k].reshape(size, size), parameters.alpha)
        total += G
        tau = deltas[k].T if turned else deltas[k]  # [in out]
        right += G @ tau
        mean += tau / len(deltas)
        del G, tau
    change = solved(total, right, mean, at.name)
    return base + (change.T if turned else change).astype(base.dtype)


def solved(
    total: Float[Array, "in in"],
    right: Float[Array, "in out"],
    mean: Float[Array, "in out"],
    name: str,
) -> Float[Array, "in out"]:
    """(total + ridge)^-1 (right + ridge mean); the arrays are used up.

    Rows and columns are scaled so that the diagonal is 1 + RIDGE: inputs of a transformer differ
    by orders of magnitude.
    """
    from scipy.linalg import LinAlgError, cho_factor, cho_solve

    diagonal = total.diagonal().copy()
    never = diagonal <= 0  # inputs that are always 0: the mean alone decides
    scale = np.sqrt(np.where(never, 1, diagonal))[:, None]
    total /= scale
    total /= scale.T
    right /= scale
    right += np.where(never, 1, RIDGE)[:, None] * scale * mean
    np.fill_diagonal(total, np.where(never, 1, 1 + RIDGE))
    try:
        factor = cho_factor(total.T, lower=True, overwrite_a=True, check_finite=False)
    except LinAlgError:
        raise TaskgroveError(
            f'the Gram matrices of "{name}" cannot be inverted: give alpha below 1, such as 0.9, or'
            " compute them on more rows."
        ) from None
    return cho_solve(factor, right, overwrite_b=True, check_finite=False) / scale


def mean_of(
    base: Float[Array, " number"],
    deltas: Float[Array, "model number"],
    parameters: Any,  # noqa: ARG001
    at: At,  # noqa: ARG001
) -> Float[Array, " number"]:
    """The plain mean, for tensors that are no layer's matrix."""
    return base + deltas.mean(0)


def shrunk(G: Float[Array, "in in"], alpha: float) -> Float[Array, "in in"]:
    """Gh, in the place of G."""
    diagonal = G.diagonal().copy()
    G *= alpha
    np.fill_diagonal(G, diagonal)
    return G


METHOD = Static(
    "linear layers that answer most as each model does on its own inputs (Jin et al. 2023)",
    Parameters,
    regmean,
    takes="matrix",
    matrix=layers,
    base="optional",
    otherwise=mean_of,
    beside=("gram",),
)
