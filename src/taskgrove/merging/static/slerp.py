"""SLERP: two models, interpolated along the arc between them and not along the chord.

Shoemake, "Animating rotation with quaternion curves", SIGGRAPH 1985, doi 10.1145/325165.325242. The
point between two unit vectors keeps length 1 on the arc, but shrinks on the chord. For weights it
is common practice, one arc for each tensor, not the method of a paper.

    cos omega = <theta_1, theta_2> / (|theta_1| |theta_2|)
    a = sin((1 - t) omega) / sin omega,   b = sin(t omega) / sin omega
    theta = a theta_1 + b theta_2  =  (a + b) theta_0 + a tau_1 + b tau_2

    theta_0, theta: [number]; tau: [2 number]; t: one number in [0, 1]; omega, a, b: of the tensor

The arc is that of the full weights, with or without a base; a base only serves to find what did not
change. Where theta_1 and theta_2 are parallel, opposite or 0, a = 1 - t and b = t. Differs from
the usual code: that takes the chord already where |cos omega| > 0.9995, which two models tuned
from one base nearly always exceed; here the sums are in fp64, and sin omega < 1e-6 is parallel.
"""

from dataclasses import dataclass
from math import acos, sin, sqrt
from typing import Annotated

import numpy as np

from taskgrove.errors import TaskgroveError
from taskgrove.merging.static.static import Array, At, Blocks, Seen, Static
from taskgrove.shapes import Float

PARALLEL = 1e-6  # sin omega; the arc and the chord then differ by less than fp32 can tell


@dataclass(frozen=True)
class Parameters:
    """Of SLERP."""

    t: Annotated[float, "From 0, the first model, to 1, the second."] = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.t <= 1:
            raise TaskgroveError(
                f"t is {self.t}; expected from 0 (the first model) to 1 (the second)."
            )


def arc(blocks: Blocks, parameters: Parameters) -> Seen:
    """c [2]: a and b of the tensor."""

    def inner(base: Array, deltas: Array, at: At) -> Float[Array, "3"]:  # noqa: ARG001
        theta_1, theta_2 = base.astype(np.float64) + deltas
        pairs = ((theta_1, theta_1), (theta_2, theta_2), (theta_1, theta_2))
        return np.array([np.einsum("n,n->", x, y) for x, y in pairs])

    first, second, dot = sum(blocks.map(inner), np.zeros(3))
    return {"c": np.array(_coefficients(parameters.t, float(first), float(second), float(dot)))}


def _coefficients(t: float, first: float, second: float, dot: float) -> tuple[float, float]:
    """a and b from the two squared lengths and the inner product."""
    lengths = sqrt(first) * sqrt(second)
    omega = acos(min(1.0, max(-1.0, dot / lengths))) if lengths else 0.0
    if sin(omega) < PARALLEL:
        return 1 - t, t
    return sin((1 - t) * omega) / sin(omega), sin(t * omega) / sin(omega)


def slerp(
    base: Float[Array, " number"],
    deltas: Float[Array, "2 number"],
    parameters: Parameters,  # noqa: ARG001
    at: At,
) -> Float[Array, " number"]:
    """One merged block."""
    a, b = at.seen["c"].tolist()
    return (a + b) * base + (a * deltas[0] + b * deltas[1])


METHOD = Static(
    "two models, along the arc between them, tensor by tensor (Shoemake 1985)",
    Parameters,
    slerp,
    look=arc,
    passes=2,
    base="optional",
    models=(2, 2),
)
