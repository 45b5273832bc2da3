"""The report's three plots, each at its natural size, with names at the data."""

from typing import TYPE_CHECKING, Any

import numpy as np

from taskgrove.measuring.report_parts.svg import INK, MUTED, Looks, below, beside, drawn, scale
from taskgrove.measuring.report_parts.wording import cut, minus, percent, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def forest(rows: list[dict[str, Any]], looked: Looks) -> str:
    """Delta-m of each method: the mean, its interval as a bar, each seed as a ring.

    A row is {"name", "mean", "interval": [low, high] or [], "seeds": [...]}, in percent.
    """
    low, high = bounds(rows)

    def draw(axes: "Axes") -> None:
        axes.set(xlim=(low, high), ylim=(len(rows) - 0.4, -0.6), yticks=[])
        axes.axvline(0, color=INK, linewidth=1)
        for y, row in enumerate(rows):
            colour = looked[row["name"]][0]
            ends = np.clip(row["interval"], low, high)
            axes.plot(ends, [y] * len(ends), color=colour, linewidth=2.5, solid_capstyle="butt")
            seeds = [x for x in row["seeds"] if low <= x <= high]
            axes.plot(seeds, [y + 0.24] * len(seeds), "o", markersize=4.5, markerfacecolor="none",
                      markeredgecolor=colour, alpha=0.8)  # fmt: skip
            side = "<" if row["mean"] < low else ">" if row["mean"] > high else "o"
            axes.plot([np.clip(row["mean"], low, high)], [y], side, markersize=8, color=colour,
                      clip_on=False)  # fmt: skip
            beside(axes, 0, y, cut(row["name"], 18), x=-10, color=INK, ha="right")
            beside(axes, 1, y, f"{percent(row['mean'])} %", x=58, color=INK, ha="right")
        for side, x, words in (("right", -8, "◂ worse"), ("left", 8, "better ▸")):
            axes.annotate(words, (0, 1), (x, 5), ("data", "axes fraction"), "offset points",
                          ha=side, fontsize=11, color=MUTED, annotation_clip=False)  # fmt: skip
        scale(axes.xaxis, signed, 5)
        below(axes, "mean gain over separate models, %")

    size = (420, (44 if len(rows) <= 10 else 28) * len(rows) + 70)
    return drawn("forest", "delta-m of each method", size, (120, 62, 26, 44), draw)


def curves(lines: dict[str, tuple[list[float], list[float]]], looked: Looks, title: str) -> str:
    """Validation metric over training passes, a line per method, its name at the line's end."""
    names = sorted(lines, key=lambda name: lines[name][1][-1])
    height = max(210, 14 * len(names) + 60)
    start, stop = 0.0, max(max(x) for x, _ in lines.values()) or 1.0
    low, high = _settled(list(lines.values()))
    gap = 13 * (high - low) / (height - 50)
    places = spread([lines[name][1][-1] for name in names], gap, low, high)

    def draw(axes: "Axes") -> None:
        axes.set(xlim=(start, stop), ylim=(low, high))
        for name, place in zip(names, places, strict=True):
            (x, y), (colour, dash) = lines[name], looked[name]
            axes.plot(x, y, color=colour, linestyle=dash, linewidth=1.8, zorder=3)
            axes.plot(x[-1:], y[-1:], "o", color=colour, markersize=4, clip_on=False, zorder=4)
            label = (stop + 0.045 * (stop - start), place)
            axes.plot([x[-1], label[0]], [y[-1], place], color=colour, linewidth=0.8, alpha=0.45,
                      clip_on=False)  # fmt: skip
            axes.annotate(cut(name, 17), label, (3, 0), textcoords="offset points", color=colour,
                          va="center", fontsize=11, annotation_clip=False)  # fmt: skip
        scale(axes.xaxis, short, 4)
        scale(axes.yaxis, lambda y: minus(f"{y:.4g}"), 5)
        below(axes, "training passes")

    return drawn(f"curves {title}", title, (360, height), (46, 122, 10, 40), draw)


def cost(points: list[dict[str, Any]], looked: Looks, words: str) -> str:
    """Quality against a cost: a dot per method at (`x`, `mean`) with its interval, named."""
    low, high = bounds(points)
    xs = [point["x"] for point in points]
    log = min(xs) > 0 and max(xs) / min(xs) > 20
    left, right = _wider(np.log10(xs), 0.2) if log else (0.0, 1.12 * max(xs))
    size, margins = (380, 270), (46, 16, 26, 40)

    def draw(axes: "Axes") -> None:
        axes.set(xlim=(10**left, 10**right) if log else (left, right), ylim=(low, high))
        axes.set_xscale("log" if log else "linear")
        axes.axhline(0, color=INK, linewidth=1)
        kept = [_held(point, low, high) for point in points]
        for point in kept:
            colour, ends = looked[point["name"]][0], point["interval"]
            axes.plot([point["x"]] * len(ends), ends, color=colour, linewidth=1.5, alpha=0.4)
            axes.plot(point["x"], point["mean"], point["marker"], color=colour, markersize=7,
                      zorder=3, clip_on=False)  # fmt: skip
        pixels = axes.transData.transform([(point["x"], point["mean"]) for point in kept])
        zero = float(axes.transData.transform((xs[0], 0))[1])
        places = label_places(pixels, [point["label"] for point in kept], size, zero)
        for point, (x, y, side) in zip(kept, places, strict=True):
            axes.annotate(point["label"], (x, y), xycoords="figure pixels", va="center",
                          ha=side, fontsize=11, color=looked[point["name"]][0])  # fmt: skip
        scale(axes.xaxis, short, 4, log)
        scale(axes.yaxis, signed, 5)
        axes.annotate("gain, %", (0, 1), (-38, 10), "axes fraction", "offset points", color=MUTED,
                      fontsize=11)  # fmt: skip
        below(axes, f"{words}{', logarithmic' if log else ''}")

    return drawn(f"cost {words}", f"mean gain against {words}", size, margins, draw)


def signed(value: float) -> str:
    """A tick of an axis of differences.

    >>> [signed(x) for x in (-2.5, 0, 0.25, 4)]
    ['−2.5', '0', '+0.25', '+4']
    """
    return minus(f"{value:+g}") if value else "0"


def _held(point: dict[str, Any], low: float, high: float) -> dict[str, Any]:
    """A point within the limits: an arrowhead at the edge, with its value, for one beyond them."""
    mean, label = point["mean"], cut(point["name"], 18)
    if low <= mean <= high:
        return {**point, "marker": "o", "label": label}
    edge, marker = (low, "v") if mean < low else (high, "^")
    return {**point, "mean": edge, "marker": marker, "label": f"{label} {percent(mean)}"}


def bounds(rows: list[dict[str, Any]]) -> tuple[float, float]:
    """Limits that hold 0, means and intervals, unless one method dwarfs the others.

    >>> low, high = bounds([{"mean": 1, "interval": [0, 2]}] * 3 + [{"mean": -90, "interval": []}])
    >>> low > -20
    True
    """
    reach = [max(abs(x) for x in (row["mean"], *row["interval"])) for row in rows]
    cap = max(1.0, 4 * float(np.median(reach)))
    held = [float(np.clip(x, -cap, cap)) for row in rows for x in (row["mean"], *row["interval"])]
    seeds = [x for row in rows for x in row.get("seeds", ()) if abs(x) <= cap]
    low, high = _wider([0.0, *held, *seeds], 0.08)
    room = max(0.0, 1 - (high - low)) / 2  # at least one percent: a trifle looks like one
    return low - room, high + room


def spread(values: list[float], gap: float, low: float, high: float) -> list[float]:
    """Ascending values moved apart to `gap`, as little as a sweep from each side needs.

    >>> spread([1.0, 1.0], 0.5, 0.0, 2.0)
    [0.75, 1.25]
    """
    up, down = list(values), list(values)
    for i in range(1, len(values)):
        up[i] = max(up[i], up[i - 1] + gap)
        down[-1 - i] = min(down[-1 - i], down[-i] - gap)
    middle = [(a + b) / 2 for a, b in zip(up, down, strict=True)]
    for i, value in enumerate(middle):
        middle[i] = max(value, low if i == 0 else middle[i - 1] + gap)
    for i in reversed(range(len(middle))):
        middle[i] = min(middle[i], high if i == len(middle) - 1 else middle[i + 1] - gap)
    return middle


def label_places(
    pixels: np.ndarray, names: list[str], size: tuple[int, int], zero: float
) -> list[tuple[float, float, str]]:
    """For each dot the place beside it (x, y, alignment) that covers the least of what is there.

    `zero` is the height of the zero line, which counts as taken.
    """
    taken = [(x - 5, y - 5, x + 5, y + 5) for x, y in pixels]
    taken.append((0.0, zero - 2, float(size[0]), zero + 2))
    found = []
    for (x, y), name in zip(pixels, names, strict=True):
        wide = 6.4 * len(name)
        choices = []
        for rise in (0, 13, -13, 26, -26, 39, -39, 52, -52):
            for side, edge in (("left", x + 9), ("right", x - 9)):
                left = edge if side == "left" else edge - wide
                box = (left, y + rise - 6, left + wide, y + rise + 6)
                out = max(0.0, 50 - left) + max(0.0, left + wide - size[0] + 2)
                out += max(0.0, 44 - box[1]) + max(0.0, box[3] - size[1] + 20)
                cover = sum(_overlap(box, other) for other in taken)
                choices.append((cover + 30 * out + 0.3 * abs(rise), box, (edge, y + rise, side)))
        _, box, place = min(choices, key=lambda choice: choice[0])
        taken.append(box)
        found.append(place)
    return found


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    wide, tall = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return max(0.0, wide) * max(0.0, tall)


def _wider(values: Any, part: float) -> tuple[float, float]:
    low, high = float(min(values)), float(max(values))
    room = part * (high - low) or max(abs(high), 1.0) * 0.5
    return low - room, high + room


def _settled(lines: list[tuple[list[float], list[float]]]) -> tuple[float, float]:
    """Limits for the last two thirds of each line: a wild start would flatten the rest."""
    late = [y for x, ys in lines for at, y in zip(x, ys, strict=True) if 3 * at >= x[-1]]
    return _wider(late, 0.06)
