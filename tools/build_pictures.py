# /// script
# requires-python = ">=3.11"
# dependencies = [
#   "resvg-py==0.5.0", "pillow==13.0.0", "pyarrow==26.0.1", "scikit-learn==1.9.1", "numpy==2.4.6",
# ]
# ///
"""Builds the suite `pictures` from its sources: six image tasks, 28 by 28 pixels, one Parquet each.

    python tools/build_pictures.py --work downloads

Sources: scikit-learn's digits, four emoji sets from npm, Open Clip Art from a Debian package. `npm`
and `apt-get` fetch the archives into the work folder once; each is checked against its sha256. This
tool needs `resvg-py`, which taskgrove itself does not. Two runs with the versions named above write
the same bytes.

Every drawing is rendered four times too large, laid on white, and reduced; then 64 colours are kept
and the picture is stored as lossless WebP. The column `drawing` says which pictures show one idea:
the same emoji in every style, its genders and colours, a clip-art series, and any two pictures that
nearly agree pixel by pixel. A hash of it gives the split, so that no idea lies on both sides.
"""

import argparse
import hashlib
import io
import json
import re
import subprocess
import tarfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import resvg_py
from PIL import Image
from sklearn.datasets import load_digits

SIZE = 28
COLOURS = 64
ALIKE = 0.06  # two pictures that differ by less than this share of their ink are one drawing
MOST_OF_ONE_SERIES = 4  # clip art: pictures kept of one series in one class
OUT = Path(__file__).parents[1] / "src" / "taskgrove" / "suites" / "pictures"

NPM = {  # task: package, version, sha256 of the archive
    "twemoji": "twemoji 1.2.5 19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7",
    "noto": "noto 1.2.9 3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad",
    "fluent": "fluent-emoji-flat 1.2.6 "
    "7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175",
    "emojione": "emojione 1.2.3 26a14f44284407e8bcde91799388dca2bfd91dbcd55a97f425524a1c5b73610e",
}
DEBIAN = (
    "openclipart-svg 1:0.18+dfsg-19 "
    "989712d90d57dfa3230049f553bb43b76c30ee4d4b8c5f6e106e33f7db5cbdc5"
)
CLIPART_CLASSES = {
    "animals", "buildings", "computer", "food", "geography", "office", "people", "plants",
    "recreation", "signs_and_symbols", "tools", "transportation",
}  # fmt: skip
CLIPART_LEFT_OUT = (  # icon themes, counted series, flags: one drawing many times over
    "computer/icons/",
    "computer/buttons/",
    "computer/folders/",
    "recreation/games/",
    "signs_and_symbols/flags/",
    "signs_and_symbols/led/",
    "signs_and_symbols/map_symbols/",
)
CLIPART_REFUSED = re.compile(  # traced photographs of people, others' characters, bad taste
    "adult_astrid|boy_astrid|a_happy_boy|a_youngster|a_man_singing|baby_anthony|my_lovely_baby|"
    "self_portrait|silvia|cm1|kid_01|john_coltrane|martin_luther|grandpa_01|portrait_of_a_woman|"
    "architetto_francesco_ro|domo_kun|vgcats|emule|gameboy|pac_?k?man|pong_|tetris|xbox|xbill|"
    "what_s_up_doc|brozo|bambi|sim_borja|sprint_|sunwheel|illuminati|stripper|sexy|pantyhose|"
    "hide_girl|chav_|pimp|samoa_tatoo|cannabis|hanged|empty_tomb|vikingdread",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Picture:
    task: str
    name: str
    label: str
    series: str  # pictures with one series show one idea
    pixels: np.ndarray  # [height width channel], uint8


# --- sources -------------------------------------------------------------------------------------


def checked(archive: Path, sha256: str) -> Path:
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != sha256:
        raise SystemExit(f"{archive.name} has sha256 {found}; expected {sha256}")
    return archive


def fetch_npm(work: Path, package: str, version: str, sha256: str) -> dict[str, dict]:
    archive = work / f"iconify-json-{package}-{version}.tgz"
    if not archive.exists():
        command = ["npm", "pack", f"@iconify-json/{package}@{version}"]
        subprocess.run(command, cwd=work, check=True, stdout=subprocess.DEVNULL)
    with tarfile.open(checked(archive, sha256)) as tar:
        return {
            part: json.load(tar.extractfile(f"package/{part}.json"))  # type: ignore[arg-type]
            for part in ("icons", "metadata")
        }


def fetch_clipart(work: Path, package: str, version: str, sha256: str) -> Path:
    archive = work / f"{package}_{version.replace(':', '%3a')}_all.deb"
    if not archive.exists():
        subprocess.run(["apt-get", "download", f"{package}={version}"], cwd=work, check=True)
    if not (work / package).exists():
        subprocess.run(["dpkg", "-x", checked(archive, sha256), work / package], check=True)
    return work / package / "usr" / "share" / "openclipart" / "svg"


# --- pixels --------------------------------------------------------------------------------------


def render(svg: str, largest: int) -> Image.Image | None:
    """The drawing without its margins, its longer side `largest`; None where nothing is drawn."""
    data = resvg_py.svg_to_bytes(svg_string=svg, width=2 * largest, dpi=90, skip_system_fonts=True)
    image = Image.open(io.BytesIO(bytes(data))).convert("RGBA")
    box = image.getchannel("A").getbbox()
    if box is None:
        return None
    image = image.crop(box)
    scale = largest / max(image.size)
    return image.resize([max(1, round(side * scale)) for side in image.size], Image.Resampling.BOX)


def on_white(image: Image.Image, margin: int) -> np.ndarray:
    """The centre of a white square, reduced to SIZE."""
    side = 4 * SIZE
    sheet = Image.new("RGBA", (side, side), "white")
    inner = side - 8 * margin
    image = image.resize(
        [max(1, round(length * inner / max(image.size))) for length in image.size],
        Image.Resampling.BOX,
    )
    corner = ((side - image.width) // 2, (side - image.height) // 2)
    sheet.alpha_composite(image, corner)
    return np.asarray(sheet.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BOX))


def encode(pixels: np.ndarray) -> bytes:
    image = Image.fromarray(pixels)
    if len(set(image.get_flattened_data())) > COLOURS:
        image = image.quantize(
            COLOURS, Image.Quantize.MEDIANCUT, kmeans=2, dither=Image.Dither.NONE
        )
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "WEBP", lossless=True, quality=100, method=6)
    return buffer.getvalue()


# --- the three kinds of picture ------------------------------------------------------------------


def digits() -> Iterator[Picture]:
    bunch = load_digits()
    for i, (grid, digit) in enumerate(zip(bunch["images"], bunch["target"], strict=True)):
        grey = Image.fromarray((255 - grid * 255 / 16).round().astype(np.uint8))
        sheet = Image.new("L", (SIZE, SIZE), 255)
        sheet.paste(grey.resize((SIZE - 4, SIZE - 4), Image.Resampling.BILINEAR), (2, 2))
        sheet = sheet.point([round(round(v / 255 * 16) * 255 / 16) for v in range(256)])
        name = f"digit-{i:04}"
        yield Picture("digits", name, str(digit), name, np.asarray(sheet.convert("RGB")))


TONE = re.compile(r"(-(medium-light|medium-dark|light|medium|dark)(-skin-tone)?)+(-|$)")
GENDER = {
    "man", "men", "woman", "women", "person", "people", "boy", "boys", "girl", "girls", "child",
    "adult", "older", "old", "male", "female", "mr", "mrs", "mx", "couple", "prince", "princess",
    "lady",
}  # fmt: skip
COLOUR = {
    "red", "orange", "yellow", "green", "blue", "light", "purple", "brown", "black", "white",
    "pink", "grey", "gray",
}  # fmt: skip
SERIES = ("oclock", "thirty", "keycap", "family", "arrow", "circle", "square", "heart", "moon")


def emoji_series(name: str) -> str:
    """The idea behind an emoji's name: genders and colours dropped, counted series as one."""
    words = name.split("-")
    for series in SERIES:
        if series in words:
            return series
    return "-".join(w for w in words if w not in GENDER | COLOUR) or "person"


def emoji(task: str, icons: dict, metadata: dict) -> Iterator[Picture]:
    for group, names in metadata["categories"].items():
        if group in ("Flags", "Modifiers"):
            continue
        for name in names:
            bare = TONE.sub("-", name).strip("-")
            if "skin-tone" in name or (bare != name and bare in icons["icons"]):
                continue
            icon = icons["icons"][name]
            size = [icon.get(side, icons[side]) for side in ("width", "height")]
            image = render(
                '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
                f' viewBox="0 0 {size[0]} {size[1]}">{icon["body"]}</svg>',
                4 * SIZE,
            )
            if image is not None:
                yield Picture(task, name, group, emoji_series(name), on_white(image, margin=0))


def clipart_series(path: Path) -> str:
    """The first word of the file's name: `seal_02.svg` and `seal_dark_ann.svg` are one series."""
    words = [word for word in re.split(r"[^a-z]+", path.stem.lower()) if len(word) > 2]
    return f"clipart {words[0] if words else path.stem.lower()}"


def clipart(root: Path) -> Iterator[Picture]:
    for path in sorted(root.rglob("*.svg")):
        name = path.relative_to(root).as_posix()
        label = name.split("/")[0]
        if label not in CLIPART_CLASSES or name.startswith(CLIPART_LEFT_OUT):
            continue
        if CLIPART_REFUSED.search(name):
            continue
        if path.is_symlink() or path.stat().st_size > 600_000:
            continue
        svg = path.read_bytes().decode("utf8", "replace")
        if "<text" in svg or "<image" in svg:  # these need fonts or embedded photographs
            continue
        image = render(svg, 4 * SIZE)
        if image is not None and max(image.size) < 12 * min(image.size):
            yield Picture("clipart", name, label, clipart_series(path), on_white(image, margin=1))


# --- one drawing, one split ----------------------------------------------------------------------


class Groups:
    """Union-find over strings; a group's name is its first member in alphabetical order."""

    def __init__(self) -> None:
        self.parent: dict[str, str] = {}

    def find(self, name: str) -> str:
        self.parent.setdefault(name, name)
        while self.parent[name] != name:
            self.parent[name] = self.parent[self.parent[name]]
            name = self.parent[name]
        return name

    def join(self, one: str, other: str) -> None:
        first, second = sorted((self.find(one), self.find(other)))
        self.parent[second] = first


def alike(pictures: list[Picture]) -> Iterator[tuple[int, int]]:
    """Pairs of one task's pictures that differ by less than ALIKE of the paler one's ink."""
    shape = (len(pictures), SIZE // 4, 4, SIZE // 4, 4, 3)
    fine = np.stack([p.pixels for p in pictures]).astype(np.int16)  # [picture height width channel]
    coarse = fine.reshape(shape).mean((2, 4))  # its differences are never above those of `fine`
    ink = (255 - fine).mean((1, 2, 3))  # [picture]
    for i in range(len(pictures) - 1):
        most = ALIKE * np.minimum(ink[i], ink[i + 1 :])
        near = np.abs(coarse[i + 1 :] - coarse[i]).mean((1, 2, 3)) < most
        for k in np.flatnonzero(near):
            if np.abs(fine[i] - fine[i + 1 + k]).mean() < most[k]:
                yield i, i + 1 + int(k)


def split_of(drawing: str) -> str:
    """65 / 15 / 20 per cent, by a hash that no machine or version changes."""
    digest = hashlib.sha256(f"taskgrove pictures {drawing}".encode()).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64
    return "train" if place < 0.65 else "validation" if place < 0.80 else "test"


def distinct(pictures: Iterable[Picture]) -> list[Picture]:
    """Without pictures that repeat an earlier one exactly, at most a few of a clip-art series."""
    kept, seen, series = [], set(), Counter()
    for picture in pictures:
        content = picture.pixels.tobytes()
        series[picture.label, picture.series] += 1
        many = series[picture.label, picture.series] > MOST_OF_ONE_SERIES
        if content in seen or (picture.task == "clipart" and many):
            continue
        seen.add(content)
        kept.append(picture)
    return kept


def group(tasks: dict[str, list[Picture]], aliases: Iterable[tuple[str, str]]) -> Groups:
    groups = Groups()
    for one, other in aliases:
        groups.join(emoji_series(one), emoji_series(other))
    for task, pictures in tasks.items():
        for picture in pictures:
            groups.find(picture.series)
        if task != "digits":
            for i, j in alike(pictures):
                groups.join(pictures[i].series, pictures[j].series)
    return groups


# --- files ---------------------------------------------------------------------------------------


def write(path: Path, pictures: list[Picture], groups: Groups) -> None:
    columns = defaultdict(list)
    for picture in sorted(pictures, key=lambda p: p.name):
        drawing = groups.find(picture.series)
        columns["image"].append(encode(picture.pixels))
        columns["label"].append(picture.label)
        columns["name"].append(picture.name)
        columns["drawing"].append(drawing)
        columns["split"].append(split_of(drawing))
    table = pa.table(
        {k: pa.array(v, pa.binary() if k == "image" else pa.string()) for k, v in columns.items()}
    )
    words = [k for k in columns if k != "image"]
    compression = dict.fromkeys(words, "zstd") | {"image": "none"}
    pq.write_table(table, path, compression=compression, use_dictionary=["label", "split"])
    counts = Counter(columns["split"])
    print(
        f"{path.name:18} {len(pictures):5} pictures, {path.stat().st_size:9,} bytes,"
        f" {len(set(columns['label'])):2} classes, {dict(sorted(counts.items()))}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="folder for the archives")
    parser.add_argument("--out", type=Path, default=OUT, help="folder of the suite")
    asked = parser.parse_args()
    for folder in (asked.work, asked.out):
        folder.mkdir(parents=True, exist_ok=True)
    tasks = {"digits": distinct(digits())}
    aliases = []
    for task, archive in NPM.items():
        source = fetch_npm(asked.work, *archive.split())
        tasks[task] = distinct(emoji(task, **source))
        aliases += [(a, v["parent"]) for a, v in source["icons"].get("aliases", {}).items()]
    tasks["clipart"] = distinct(clipart(fetch_clipart(asked.work, *DEBIAN.split())))
    groups = group(tasks, aliases)
    for task, pictures in tasks.items():
        write(asked.out / f"{task}.parquet", pictures, groups)


if __name__ == "__main__":
    main()
