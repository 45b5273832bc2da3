"""The plot of a claim: each arm's seeds and their mean; below, scores against a setting."""

from itertools import cycle
from pathlib import Path

import numpy as np

from taskgrove.measuring.claim import Claim

INK, MUTED, RING = "#222222", "#777777", "#4477aa"
COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bbbbbb")


def plot(claim: Claim, path: Path) -> None:
    """Writes a PNG, aside and renamed."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = 1 + bool(claim.curves)
    width = max(len(claim.scores), len(claim.curves))
    arms = max(len(scores) for scores in claim.scores.values())
    heights = [0.27 * arms + 1.2, 3.8][:rows]
    figure = Figure((5.4 * width, sum(heights)), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(rows, width, height_ratios=heights)
    for column, (group, scores) in enumerate(claim.scores.items()):
        _strip(figure.add_subplot(grid[0, column]), group, scores)
    for column, (title, lines) in enumerate(claim.curves.items()):
        _lines(figure.add_subplot(grid[1, column]), title, lines)
    figure.suptitle(f"{claim.system}: {claim.verdict}\n{claim.metric}", fontsize=11, color=INK)
    aside = path.with_name(path.name + ".part")
    figure.savefig(aside, format="png", dpi=110)
    aside.replace(path)


def _strip(axes, title: str, scores: dict[str, list[float]]) -> None:
    """A ring a seed, a bar at the mean."""
    for y, found in enumerate(scores.values()):
        axes.plot(found, [y] * len(found), "o", markersize=4, mfc="none", mec=RING, alpha=0.7)
        axes.plot([np.mean(found)] * 2, [y - 0.35, y + 0.35], color=INK, linewidth=2)
    axes.set_yticks(range(len(scores)), list(scores))
    axes.invert_yaxis()
    axes.set_title(title, fontsize=10, loc="left")
    axes.grid(axis="x", color="#dddddd")


def _lines(axes, title: str, lines: dict[str, dict[str, list[float]]]) -> None:
    """Mean over seeds against the setting, with the standard error as a bar."""
    for (arm, points), colour in zip(lines.items(), cycle(COLOURS), strict=False):
        x, y = [float(value) for value in points], np.array(list(points.values()))
        error = y.std(1, ddof=1) / np.sqrt(y.shape[1]) if y.shape[1] > 1 else None
        axes.errorbar(x, y.mean(1), error, marker="o", markersize=4, color=colour, label=arm)
    axes.set_xscale("log")
    ticks = sorted({float(value) for points in lines.values() for value in points})
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_title(title, fontsize=10, loc="left")
    axes.grid(color="#dddddd")
    axes.legend(fontsize=8, frameon=False)
