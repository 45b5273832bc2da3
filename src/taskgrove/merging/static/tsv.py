"""TSV-Merge: each task's leading singular vectors, made orthogonal to the other tasks' and summed.

Gargiulo, Crisostomi, Bucarelli, Scardapane, Silvestri, Rodola, "Task Singular Vectors: Reducing
Task Interference in Model Merging", CVPR 2025, arXiv 2412.00081. A layer's task matrix is nearly of
low rank; so keep a Kth of its directions for each of K tasks, and turn them as little as possible
so that no task's directions meet another's.

    tau_k = U_k S_k V_k^T        of the largest floor(min(row, column) / K) singular values
    U = [U_1 ... U_K] = P D Q^T,  Ub = P Q^T      the nearest with orthonormal columns (Procrustes)
    V = [V_1 ... V_K], Vb likewise
    theta = theta_0 + alpha Ub S Vb^T             S = diag(S_1, ..., S_K)

    theta_0, theta, tau_k: [row column]; U: [row direction]; V: [column direction]

Other tensors (vectors, convolutions, vocabularies): theta_0 + alpha mean_k tau_k, as the released
code. Differs from the paper: directions whose singular value is only rounding (as most of a LoRA's
are) are left out, since which they are is chance. Memory: about 8 copies of the largest layer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np

from taskgrove.merging.static.singular import layers, svd
from taskgrove.merging.static.static import Array, At, Static
from taskgrove.shapes import Float


@dataclass(frozen=True)
class Parameters:
    """Of TSV-Merge."""

    scale: Annotated[float, "alpha: of the merged task matrix."] = 1.0


def tsv(
    base: Float[Array, "row column"],
    deltas: Sequence[Array],
    parameters: Parameters,
    at: At,
) -> Float[Array, "row column"]:
    """One merged matrix."""
    keep = max(1, min(base.shape) // len(deltas))
    parts = [kept(deltas[k], at.name, keep) for k in range(len(deltas))]
    U = np.concatenate([U for U, _, _ in parts], axis=1)  # [row direction]
    S = np.concatenate([S for _, S, _ in parts])  # [direction]
    V = np.concatenate([V for _, _, V in parts])  # [direction column]
    del parts
    if not len(S):
        return base
    merged = (orthogonal(U, at.name) * S) @ orthogonal(V, at.name)
    return base + parameters.scale * merged


def kept(
    tau: Float[Array, "row column"], name: str, most: int
) -> tuple[Float[Array, "row part"], Float[Array, " part"], Float[Array, "part column"]]:
    """The leading directions, in memory of their own."""
    U, S, V = svd(tau, name, most)
    return U.copy(), S, V.copy()


def orthogonal(X: Float[Array, "row column"], name: str) -> Float[Array, "row column"]:
    """The nearest matrix whose columns, or rows where these are fewer, are orthonormal."""
    P, _, Q = svd(X, name)
    return P @ Q


def scaled_mean(
    base: Float[Array, " number"],
    deltas: Float[Array, "model number"],
    parameters: Any,  # of TSV-Merge or Iso-C
    at: At,  # noqa: ARG001
) -> Float[Array, " number"]:
    """Of tensors that are no layer's matrix."""
    return base + parameters.scale * deltas.mean(0)


METHOD = Static(
    "leading singular vectors of each task, made orthogonal between tasks (Gargiulo et al. 2025)",
    Parameters,
    tsv,
    takes="matrix",
    matrix=layers,
    otherwise=scaled_mean,
)
