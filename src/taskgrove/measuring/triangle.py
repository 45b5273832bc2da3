"""The triangle of three models' weights: the loss over it, and the way that descent took.

A point is w_1 c_1 + w_2 c_2 + w_3 c_3 with the corners c at unit distance, w on the simplex.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

CORNERS = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, np.sqrt(0.75)]])
INK, WAY = "#222222", "#ee6677"


def grid(steps: int = 5) -> Float[np.ndarray, "point 3"]:
    """All weights that are multiples of 1 / steps.

    >>> len(grid(5))
    21
    """
    several = range(steps + 1)
    points = [(a, b, steps - a - b) for a in several for b in several if a + b <= steps]
    return np.array(points) / steps


def triangle(
    names: Sequence[str],
    path: Float[np.ndarray, "step 3"],
    kept: Float[np.ndarray, " 3"],
    weights: Float[np.ndarray, "point 3"],
    losses: Float[np.ndarray, " point"],
    title: str,
    file: Path,
) -> None:
    """Writes a PNG: the mean probe loss at `weights`, the path, and what was kept of it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure((5.6, 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    x, y = (weights @ CORNERS).T
    surface = axes.tricontourf(x, y, losses, levels=12, cmap="Blues")
    figure.colorbar(surface, ax=axes, label="mean probe loss", shrink=0.7)
    axes.plot(CORNERS[[0, 1, 2, 0], 0], CORNERS[[0, 1, 2, 0], 1], color=INK, linewidth=1)
    way, end = path @ CORNERS, kept @ CORNERS
    axes.plot(way[:, 0], way[:, 1], color=WAY, linewidth=1.5)
    axes.plot(end[0], end[1], "o", color=WAY)
    for name, corner, share in zip(names, CORNERS, kept, strict=True):
        away = corner + 0.07 * (corner - CORNERS.mean(0)) / 0.577
        axes.text(
            away[0],
            away[1],
            f"{name}\n{share:.2f}",
            ha="center",
            va="center",
            color=INK,
            fontsize=9,
        )
    axes.set_title(title, fontsize=10, color=INK)
    axes.set_xlim(-0.2, 1.2)
    axes.set_ylim(-0.15, 1.05)
    axes.set_aspect("equal")
    axes.axis("off")
    aside = file.with_name(file.name + ".part")
    figure.savefig(aside, format="png", dpi=110)
    aside.replace(file)
