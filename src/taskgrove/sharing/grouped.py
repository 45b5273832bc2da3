"""grouped(x, W, b, route): each row times the weights of its own group.

    y_e = W_g(e) x_e + b_g(e)

Symbols: x [entry dim], entries sorted by group; W [group out dim]; b [group out]; g(e) the group of
entry e, given as `sizes` (entries of each group); y [entry out].
Two ways, equal in result: many small groups gather their weights and run as one batched product
(E x out x dim numbers, so only where groups are small); few large groups run one after the other.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

FEW = 4  # entries a group below which gathering is cheaper than a loop


def grouped(
    x: Float[Tensor, "entry dim"],
    W: Sequence[Float[Tensor, "out dim"]],
    b: Sequence[Float[Tensor, " out"]],
    sizes: Sequence[int],
) -> Float[Tensor, "entry out"]:
    """y; a group may be empty. Cost: E x out x dim products either way."""
    if len(x) >= FEW * len(W):
        parts = zip(x.split(sizes), W, b, strict=True)
        return torch.cat([functional.linear(rows, weight, bias) for rows, weight, bias in parts])
    counts = torch.tensor(list(sizes), device=x.device)
    g = torch.arange(len(W), device=x.device).repeat_interleave(counts, output_size=len(x))
    weights = torch.stack(list(W)).to(x.dtype)[g]  # [entry out dim]
    biases = torch.stack(list(b)).to(x.dtype)[g]  # [entry out]
    return torch.baddbmm(biases.unsqueeze(-1), weights, x.unsqueeze(-1)).squeeze(-1)
