"""Adapter weights from a task vector by principal components and ridge regression.

The simple rival of a generator (see weight_generator): Pearson 1901; Hoerl, Kennard, "Ridge
Regression", Technometrics 1970.

    w - w_mean ~ a V,   a ~ (c - c_mean) / s M,   M = (C^T C + penalty I)^-1 C^T A

Symbols: w [row number]; V [component number] the first right singular vectors; a [row component];
c [row cond]; C, A all rows; s the deviation of c. Solved in the smaller space of the rows:
M = C^T (C C^T + penalty I)^-1 A. Cost: one singular value decomposition of [row number].
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class WeightRidge:
    """The fitted map."""

    w_mean: Float[Tensor, " number"]
    V: Float[Tensor, "component number"]
    c_mean: Float[Tensor, " cond"]
    s: Float[Tensor, ""]
    M: Float[Tensor, "cond component"]

    def generate(self, c: Float[Tensor, " cond"]) -> Float[Tensor, " number"]:
        """w of a task vector."""
        return self.w_mean + ((c - self.c_mean) / self.s) @ self.M @ self.V

    @property
    def size_in_bytes(self) -> int:
        """What it takes on disk."""
        tensors = (self.w_mean, self.V, self.c_mean, self.s, self.M)
        return sum(t.numel() * t.element_size() for t in tensors)


def weight_ridge(
    w: Float[Tensor, "row number"],
    c: Float[Tensor, "row cond"],
    components: int = 8,
    penalty: float = 1.0,
) -> WeightRidge:
    """Fits the map; no more components than rows."""
    w_mean, c_mean = w.mean(0), c.mean(0)
    V = torch.linalg.svd(w - w_mean, full_matrices=False).Vh[:components]
    s = (c - c_mean).square().mean().sqrt().clamp(min=1e-12)
    C, A = (c - c_mean) / s, (w - w_mean) @ V.T
    M = C.T @ torch.linalg.solve(C @ C.T + penalty * torch.eye(len(C)), A)
    return WeightRidge(w_mean, V, c_mean, s, M)
