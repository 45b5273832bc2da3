"""A matrix of cosines as a drawing: blue where two tasks' gradients agree, orange in conflict."""

from typing import TYPE_CHECKING

from taskgrove.measuring.report_parts.svg import GRID, INK, MUTED, PAPER, drawn, shade
from taskgrove.measuring.report_parts.wording import cut, minus

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.patches import PathPatch

EDGES = (0.05, 0.2, 0.4, 0.7)  # of the colours; below the first, none
WRITTEN = 8  # tasks up to which each cell holds its number
Square = tuple[int, int]


def heat_map(tasks: list[str], values: list[list[float]], title: str) -> str:
    """Rows are named and numbered, columns are the same numbers; NaN: the two never met."""
    count = len(tasks)
    cell = min(38.0, 230 / count)
    groups: dict[str, list[Square]] = {}
    for i, row in enumerate(values):
        for j, value in enumerate(row):
            groups.setdefault(_colour(value, same=i == j), []).append((i, j))
    small = min(11.0, max(5.0, cell - 1))

    def draw(axes: "Axes") -> None:
        axes.set(xlim=(0, count), ylim=(count, 0), xticks=[], yticks=[])
        for colour, squares in groups.items():
            axes.add_patch(_patch(squares, colour))
        for i, task in enumerate(tasks):
            axes.annotate(f"{cut(task, 16)} {i + 1}", (0, i + 0.5), (-6, 0),
                          textcoords="offset points", ha="right", va="center", fontsize=small,
                          color=INK, annotation_clip=False)  # fmt: skip
            if cell > 2 * small or i % 5 == 4:
                axes.annotate(f"{i + 1}", (i + 0.5, 0), (0, 5), ha="center", color=MUTED,
                              textcoords="offset points", fontsize=small,
                              annotation_clip=False)  # fmt: skip
            for j in range(count if count <= WRITTEN else 0):
                if i != j and values[i][j] == values[i][j]:
                    text = minus(f"{round(values[i][j], 2) or 0:.2f}")
                    axes.annotate(text, (j + 0.5, i + 0.5), ha="center", va="center",
                                  fontsize=min(11.0, cell / 3), color=INK)  # fmt: skip

    size = (round(118 + cell * count + 6), round(20 + cell * count + 6))
    return drawn(f"cosines {title}", title, size, (118, 6, 20, 6), draw)


def _colour(value: float, same: bool) -> str:
    if same or value != value:
        return GRID if same else PAPER
    level = sum(abs(value) >= edge for edge in EDGES)
    return shade("better" if value > 0 else "worse", level) if level else PAPER


def _patch(squares: list[Square], colour: str) -> "PathPatch":
    """All cells of a colour as one shape, a little apart."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    low, high = 0.04, 0.96
    corners = [(low, low), (high, low), (high, high), (low, high), (low, low)]
    points = [(j + x, i + y) for i, j in squares for x, y in corners]
    codes = [Path.MOVETO, Path.LINETO, Path.LINETO, Path.LINETO, Path.CLOSEPOLY] * len(squares)
    return PathPatch(Path(points, codes), facecolor=colour, edgecolor="none", linewidth=0)
