"""Suite `scenes`: pictures of 64 x 64 with five exact maps, composed of emoji over photographs.

Each scene lays 2 to 4 emoji of the suite `pictures` on a piece of scikit-learn's two photographs,
far ones first. No drawing, and so no object, lies in two splits. An emoji stands at a depth z of 1
to 4, which also sets its side, 56 / sqrt(z); the background stands at 5.
    classes   background, then the emoji's group      depth    z of what is in front, in thousandths
    edges     pixels whose right or lower neighbour is another object
    saliency  whether an object is there
    normals   of each object's bevel: h = min(distance to its border, 4), n ~ (-dh/dx, dh/drow, 1)
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from taskgrove.suites.cache import fill

SIDE, FAR, BEVEL = 64, 5.0, 4.0
COUNTS = {"train": 1200, "validation": 200, "test": 300}
SETS = ("fluent", "noto", "twemoji")  # whose groups are the same


@dataclass(frozen=True)
class CutOut:
    """An object: colours uint8 [h w 3], where it covers bool [h w], its class from 1."""

    colours: np.ndarray
    covers: np.ndarray
    label: int


@dataclass(frozen=True)
class Scene:
    """uint8 [row column 3], and its maps [row column]; normals [row column 3]."""

    image: np.ndarray
    classes: np.ndarray
    depth: np.ndarray
    normals: np.ndarray
    edges: np.ndarray
    saliency: np.ndarray


def compose(
    objects: Sequence[CutOut], ground: np.ndarray, rng: np.random.Generator, side: int = SIDE
) -> Scene:
    """Lays the objects on `ground` uint8 [row column 3], far ones first."""
    from PIL import Image
    from scipy.ndimage import distance_transform_edt

    image, number = ground.copy(), np.zeros((side, side), np.uint8)
    classes, depth = np.zeros_like(number), np.full((side, side), FAR)
    normals = np.zeros((side, side, 3))
    normals[..., 2] = 1
    for n, (z, one) in enumerate(
        zip(np.sort(rng.uniform(1, 4, len(objects)))[::-1], objects, strict=True), 1
    ):
        size = min(side, round(0.875 * side / np.sqrt(z)))
        colours = np.asarray(Image.fromarray(one.colours).resize((size, size)))
        covers = np.asarray(
            Image.fromarray(one.covers).resize((size, size), Image.Resampling.NEAREST)
        )
        top, left = rng.integers(0, side - size + 1, 2)
        here = (slice(top, top + size), slice(left, left + size))
        inside = np.asarray(distance_transform_edt(np.pad(covers, 1)))
        height = np.minimum(inside[1:-1, 1:-1], BEVEL)
        d_row, d_column = np.gradient(height)
        n_xyz = np.stack([-d_column, d_row, np.ones_like(height)], -1)
        n_xyz /= np.linalg.norm(n_xyz, axis=-1, keepdims=True)
        for whole, part in ((image, colours), (classes, one.label), (number, n), (depth, z)):
            whole[here][covers] = part[covers] if isinstance(part, np.ndarray) else part
        normals[here][covers] = n_xyz[covers]
    edges = np.zeros_like(number)
    edges[:, :-1] |= number[:, :-1] != number[:, 1:]
    edges[:-1] |= number[:-1] != number[1:]
    return Scene(image, classes, depth, normals, edges, (number > 0).astype(np.uint8))


def cut_out(colours: np.ndarray, label: int) -> CutOut:
    """A drawing on white without the white that reaches its border."""
    from scipy.ndimage import label as regions

    white = np.pad((colours > 247).all(-1), 1, constant_values=True)
    parts = np.asarray(regions(white)[0])  # pyright: ignore[reportIndexIssue]
    return CutOut(colours, (parts != parts[0, 0])[1:-1, 1:-1], label)


def emoji() -> tuple[tuple[str, ...], dict[str, list[CutOut]]]:
    """The groups, and the cut-outs of each split."""
    import pyarrow.parquet as pq
    from PIL import Image

    rows = []
    for name in SETS:
        file = Path(__file__).parent / "pictures" / f"{name}.parquet"
        rows += pq.read_table(file, columns=["image", "label", "split"]).to_pylist()
    groups = tuple(sorted({row["label"] for row in rows}))
    found: dict[str, list[CutOut]] = {split: [] for split in COUNTS}
    for row in rows:
        colours = np.asarray(Image.open(io.BytesIO(row["image"])).convert("RGB"))
        one = cut_out(colours, groups.index(row["label"]) + 1)
        if one.covers.mean() > 0.1:
            found[row["split"]].append(one)
    return groups, found


def grounds() -> list[np.ndarray]:
    from sklearn.datasets import load_sample_image

    return [np.asarray(load_sample_image(name)) for name in ("china.jpg", "flower.jpg")]


def draw(
    objects: Sequence[CutOut], photos: Sequence[np.ndarray], rng: np.random.Generator
) -> Scene:
    """A scene of 2 to 4 of the objects."""
    photo = photos[int(rng.integers(len(photos)))]
    top, left = (rng.integers(0, n - SIDE + 1) for n in photo.shape[:2])
    ground = photo[top : top + SIDE, left : left + SIDE]
    chosen = rng.choice(len(objects), rng.integers(2, 5), replace=False)
    return compose([objects[n] for n in chosen], ground, rng)


def _png(values: np.ndarray) -> bytes:
    from PIL import Image

    Image.fromarray(values).save(file := io.BytesIO(), "png")
    return file.getvalue()


def cells(scene: Scene) -> dict[str, bytes]:
    """The scene as PNG files, by column."""
    return {
        "image": _png(scene.image),
        "classes": _png(scene.classes),
        "depth": _png(np.round(1000 * scene.depth).astype(np.uint16)),
        "normals": _png(np.round(127.5 * (1 + scene.normals)).astype(np.uint8)),
        "edges": _png(255 * scene.edges),
        "saliency": _png(255 * scene.saliency),
    }


def build(folder: Path, counts: dict[str, int] = COUNTS, seed: int = 0) -> Path:
    """The suite's tasks.yaml in `folder`; the same scenes for the same seed."""

    def write(aside: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        groups, objects = emoji()
        photos, rows = grounds(), []
        for number, (split, count) in enumerate(counts.items()):
            rng = np.random.default_rng([seed, number])
            drawn = (draw(objects[split], photos, rng) for _ in range(count))
            rows += [{**cells(scene), "split": split} for scene in drawn]
        pq.write_table(pa.Table.from_pylist(rows), aside / "scenes.parquet")
        (aside / "tasks.yaml").write_text(text(groups), "utf8")

    return fill(folder, write)


def text(groups: Sequence[str]) -> str:
    """tasks.yaml; weights as in multi-task dense prediction on PASCAL-Context (InvPT)."""
    names = ", ".join(f'"{name}"' for name in ("background", *groups))
    return f"""# Five exact maps of scenes that taskgrove composed.
data: scenes.parquet
image: image
image_size: {SIDE}
split: split
backbone: cnn
tasks:
  classes: {{kind: segmentation, classes: [{names}]}}
  depth: {{kind: depth}}
  normals: {{kind: normals, weight: 10}}
  edges: {{kind: edges, weight: 50}}
  saliency: {{kind: saliency, weight: 5}}
"""
