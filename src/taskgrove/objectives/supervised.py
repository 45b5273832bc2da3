"""Supervised losses, one value a row, by target kind.

Symbols: output [row out]; target [row] class numbers, [row class] zeros and ones, or [row] numbers
already centred and scaled; result [row]. All in fp32 whatever the trunk's precision is.
"""

from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from taskgrove.objectives.dense import DENSE


def cross_entropy(output: Float[Tensor, "row out"], target: Int[Tensor, " row"]) -> Tensor:
    """-log softmax(output)[target], for one of several classes. Returns [row]."""
    return functional.cross_entropy(output.float(), target, reduction="none")


def binary_cross_entropy(output: Float[Tensor, "row out"], target: Tensor) -> Tensor:
    """Mean over labels of the logistic loss, for any number of labels. Returns [row]."""
    loss = functional.binary_cross_entropy_with_logits(
        output.float(), target.float(), reduction="none"
    )  # [row class]
    return loss.mean(-1)  # [row]


def squared_error(output: Float[Tensor, "row 1"], target: Float[Tensor, " row"]) -> Tensor:
    """(output - target)^2, for a number. Returns [row]."""
    return (output.float().squeeze(-1) - target.float()).square()  # [row]


LOSSES = {
    "classes": cross_entropy,
    "labels": binary_cross_entropy,
    "number": squared_error,
    **DENSE,
}
