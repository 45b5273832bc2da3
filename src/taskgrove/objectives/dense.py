"""Losses of maps, one value a row: the mean over the pixels that have a target, 0 where none has.

Settings of "Inverted Pyramid Multi-task Transformer for Dense Scene Understanding" (InvPT), Hanrong
Ye, Dan Xu, ECCV 2022, https://arxiv.org/abs/2203.07997: cross-entropy for classes, balanced
logistic loss with weight 0.95 on edges, L1 for depth and for the components of unit normals.
Symbols: output [row out h w]; target [row h w], for normals [row 3 h w]; 255 or NaN is missing.
Differs: saliency has one output and the logistic loss, which is cross-entropy of two classes.
"""

import torch
from jaxtyping import Float, Shaped, UInt8
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, normalize

IGNORED, POSITIVE = 255, 0.95
Output = Float[Tensor, "row out h w"]


def masked_mean(loss: Float[Tensor, "row h w"], known: Shaped[Tensor, "row h w"]) -> Tensor:
    """Mean over known pixels [row]; what is not known may even be NaN."""
    kept = torch.where(known, loss, torch.zeros_like(loss))
    return kept.sum((1, 2)) / known.sum((1, 2)).clamp(min=1)


def segmentation(output: Output, target: UInt8[Tensor, "row h w"]) -> Tensor:
    """-log softmax(output)[target]. Returns [row]."""
    loss = cross_entropy(output.float(), target.long(), ignore_index=IGNORED, reduction="none")
    return masked_mean(loss, target != IGNORED)


def marks(output: Output, target: UInt8[Tensor, "row h w"]) -> Tensor:
    """The logistic loss of 0 and 1. Returns [row]."""
    y = (target == 1).float()
    loss = binary_cross_entropy_with_logits(output[:, 0].float(), y, reduction="none")
    return masked_mean(loss, target != IGNORED)


def edges(output: Output, target: UInt8[Tensor, "row h w"]) -> Tensor:
    """-0.95 y log p - 0.05 (1 - y) log(1 - p). Returns [row]."""
    y = (target == 1).float()
    loss = binary_cross_entropy_with_logits(output[:, 0].float(), y, reduction="none")
    return masked_mean(loss * (POSITIVE * y + (1 - POSITIVE) * (1 - y)), target != IGNORED)


def depth(output: Output, target: Float[Tensor, "row h w"]) -> Tensor:
    """|output - target| of centred and scaled depths. Returns [row]."""
    known = ~target.isnan()
    return masked_mean((output[:, 0].float() - target.nan_to_num()).abs(), known)


def normals(output: Output, target: Float[Tensor, "row 3 h w"]) -> Tensor:
    """Mean over x, y, z of |output / length - target|. Returns [row]."""
    known = ~target.isnan().any(1)
    n = normalize(output.float(), dim=1)
    return masked_mean((n - target.nan_to_num()).abs().mean(1), known)


DENSE = {
    "segmentation": segmentation,
    "depth": depth,
    "normals": normals,
    "edges": edges,
    "saliency": marks,
}
