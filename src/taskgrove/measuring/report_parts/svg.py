"""A matplotlib drawing as inline SVG: text kept as text, every colour a CSS variable.

So a plot follows the page from light to dark and to paper: a drawing uses stand-in colours and
`drawn` writes `var(--...)` for them. Sizes are in CSS pixels; every axis has a fixed place, so that
nothing depends on the width of a font.
"""

import re
import warnings
from collections.abc import Callable
from html import escape
from io import StringIO
from typing import TYPE_CHECKING, Any

from taskgrove.measuring.report_parts.wording import REFERENCE, cut

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, MUTED, GRID, PAPER = "#010101", "#020202", "#030303", "#040404"
VARIABLES = {INK: "--ink", MUTED: "--muted", GRID: "--line", PAPER: "--paper"}
HUES = 7  # --hue0 ... --hue6 in the page
HUE = "#0500{:02x}"
SHADE = "#0600{:d}{:d}"  # --better1 ... --better4, --worse1 ... --worse4
WAYS = ("better", "worse")
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (7, 2, 1.5, 2)))
Looks = dict[str, tuple[str, Any]]


def looks(methods: list[str]) -> Looks:
    """A colour and a dash per method, the same in every plot; `single` is drawn in ink."""
    others = [name for name in methods if name != REFERENCE]
    found: Looks = {
        name: (HUE.format(k % HUES), DASHES[k // HUES % len(DASHES)])
        for k, name in enumerate(others)
    }
    return {**found, REFERENCE: (INK, "-")}


def variable(colour: str) -> str:
    """The CSS variable that stands for a stand-in colour.

    >>> variable(INK), variable(HUE.format(2))
    ('var(--ink)', 'var(--hue2)')
    """
    if colour.startswith("#0600"):
        return f"var(--{WAYS[int(colour[-2])]}{colour[-1]})"
    return f"var({VARIABLES.get(colour) or f'--hue{int(colour[-2:], 16)}'})"


def shade(way: str, level: int) -> str:
    """The stand-in for a shade of better or worse, 1 to 4.

    >>> variable(shade("worse", 2))
    'var(--worse2)'
    """
    return SHADE.format(WAYS.index(way), level)


def scale(axis: Any, write: Callable[[float], str], most: int, log: bool = False) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    axis.set_major_locator(LogLocator(numticks=most) if log else MaxNLocator(most))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: write(round(value, 10))))
    axis.grid(True, color=GRID, linewidth=1)
    axis.set_tick_params(length=0, pad=6, labelsize=11, labelcolor=MUTED)


def below(axes: "Axes", words: str) -> None:
    axes.annotate(words, (1, 0), (0, -34), "axes fraction", "offset points", ha="right",
                  fontsize=11, color=MUTED)  # fmt: skip


def beside(axes: "Axes", edge: int, y: float, words: str, x: float, **style: Any) -> None:
    axes.annotate(words, (edge, y), (x, 0), ("axes fraction", "data"), "offset points",
                  va="center", fontsize=12, annotation_clip=False, **style)  # fmt: skip


def drawn(
    salt: str,
    words: str,
    size: tuple[int, int],
    margins: tuple[int, int, int, int],
    draw: Callable[["Axes"], None],
) -> str:
    """One drawing as an `<svg>` element; margins are left, right, top, bottom in pixels."""
    import matplotlib
    from matplotlib.figure import Figure

    (width, height), (left, right, top, bottom) = size, margins
    place = (left / width, bottom / height, 1 - (left + right) / width, 1 - (top + bottom) / height)
    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # the reader's fonts draw the text
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": salt,
                                    "text.parse_math": False, "axes.axisbelow": True})  # fmt: skip
        figure = Figure(figsize=(width / 72, height / 72), dpi=72, frameon=False)
        axes = figure.add_axes(place, frameon=False)
        draw(axes)
        text = StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(text, format="svg", metadata=nothing)
    return _themed(text.getvalue(), words, width, height)


def _themed(text: str, words: str, width: int, height: int) -> str:
    text = re.sub(r"<g id=\"[^\"]*\">", "<g>", text[text.index("<svg") :])
    text = re.sub(r"^<svg[^>]*>", "", text).replace("xlink:href", "href")
    text = re.sub(r"\s*<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(
        r"(?<=: )#(?:(?:0[1-4]){3}|0[56]00[0-9a-f]{2})\b", lambda hit: variable(hit[0]), text
    )
    head = f'<svg role="img" aria-label="{escape(cut(words, 200))}" viewBox="0 0 {width} {height}"'
    return f'{head} style="max-width:{width}px">{text}'.strip()
