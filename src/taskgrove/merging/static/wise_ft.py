"""WiSE-FT: the base and one tuned model, interpolated.

Wortsman, Ilharco, Kim, Li, Kornblith, Roelofs, Gontijo-Lopes, Hajishirzi, Farhadi, Namkoong,
Schmidt, "Robust fine-tuning of zero-shot models", CVPR 2022, arXiv 2109.01903. A tuned model is
better on its task and worse elsewhere; on the straight line between it and its base there are
models that keep most of both.

    theta = (1 - alpha) theta_0 + alpha theta_1  =  theta_0 + alpha tau

    theta_0, theta: [number]; tau: [1 number]; alpha: one number in [0, 1]

Differs from the paper: nothing. It advises alpha = 0.5 where nothing can be measured.
"""

from dataclasses import dataclass
from typing import Annotated

from taskgrove.errors import TaskgroveError
from taskgrove.merging.static.static import Array, At, Static
from taskgrove.shapes import Float


@dataclass(frozen=True)
class Parameters:
    """Of WiSE-FT."""

    alpha: Annotated[float, "The tuned model's part, from 0 (the base) to 1."] = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise TaskgroveError(
                f"alpha is {self.alpha}; expected from 0 (the base) to 1 (the tuned model); to go"
                " beyond either, use task_arithmetic with a scale."
            )


def wise_ft(
    base: Float[Array, " number"],
    deltas: Float[Array, "1 number"],
    parameters: Parameters,
    at: At,  # noqa: ARG001
) -> Float[Array, " number"]:
    """One merged block."""
    return base + parameters.alpha * deltas[0]


METHOD = Static(
    "the line between the base and one tuned model (Wortsman et al. 2022)",
    Parameters,
    wise_ft,
    models=(1, 1),
)
