"""Letters of the fonts that matplotlib brings, each with a turn, a size and a place of its own.

Fonts: DejaVu and three of Computer Modern for training, two others of Computer Modern for
validation, STIX, a family of its own, for test. Greek, of which Computer Modern has nothing here,
is learned from DejaVu. Symbols: pictures uint8 [row 28 28 3], labels [row].
"""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

LATIN = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
GREEK = "αβγδεζηθικλμνξοπρστυφχψω"
SIDE = 28
DEJAVU = [
    f"DejaVu{family}{style}"
    for family, styles in (
        ("Sans", ("", "-Bold", "-Oblique", "-BoldOblique")),
        ("SansMono", ("", "-Bold", "-Oblique", "-BoldOblique")),
        ("Serif", ("", "-Bold", "-Italic", "-BoldItalic")),
    )
    for style in styles
]
STIX = ["STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "STIXGeneralBolIta"]
FONTS = {
    "train": [*DEJAVU, "cmss10", "cmtt10", "cmb10"],
    "validation": ["cmr10", "cmti10"],
    "test": STIX,
}


def letters(alphabet: str, split: str, each: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Every letter of a split's fonts, `each` times."""
    import matplotlib

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    rng = np.random.default_rng([seed, len(alphabet), sorted(FONTS).index(split)])
    fonts = DEJAVU if alphabet == GREEK and split == "train" else FONTS[split]
    found, labels = [], []
    for name in fonts:
        for label, letter in enumerate(alphabet):
            for _ in range(each):
                size = int(rng.integers(17, 24))
                font = ImageFont.truetype(str(folder / f"{name}.ttf"), size)
                found.append(_drawn(letter, font, rng))
                labels.append(label)
    return np.stack(found), np.array(labels)


def _drawn(letter: str, font: ImageFont.FreeTypeFont, rng: np.random.Generator) -> np.ndarray:
    """Dark on light, somewhere near the middle."""
    picture = Image.new("L", (SIDE, SIDE), 255)
    x, y = SIDE / 2 + rng.uniform(-3, 3, 2)
    ImageDraw.Draw(picture).text((x, y), letter, fill=0, font=font, anchor="mm")
    turned = picture.rotate(rng.uniform(-12, 12), Image.Resampling.BILINEAR, fillcolor=255)
    return np.repeat(np.asarray(turned)[:, :, None], 3, 2)
