"""Maps from files: a value for each pixel of a picture, brought to the pictures' size.

    segmentation  PNG, palette or grey, or NPY: class numbers uint8 [size size], 255 is not labelled
    depth         16-bit PNG (0 is missing) or NPY (0, NaN: missing): float32 [size size], then NaN
    normals       NPY [h w 3] or [3 h w], or PNG with n = v / 127.5 - 1: float32 [3 size size], of
                  length 1, x right, y up, z to the viewer; zero vectors are missing: NaN
    edges         PNG or NPY of 0 and 1, or 0 and 255: uint8 [size size] of 0 and 1; where 1 is
                  in it 255 is not labelled
    saliency      the same
All are resized by the nearest pixel, so that no class and no depth is invented; an edge is kept if
any pixel of its cell is one, as thin lines would break.
"""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from taskgrove.errors import TaskgroveError

IGNORED = 255
NPY = b"\x93NUMPY"
GREY = ("1", "L", "P", "I", "F", "I;16", "I;16L", "I;16B")


def decode_map(content: bytes, kind: str, size: int, classes: int = 0) -> np.ndarray:
    """A map file's bytes as the module says. Raises TaskgroveError without the row's name."""
    values = pixels(content, colour=kind == "normals")  # [h w] or [h w 3]
    if kind == "segmentation":
        return _classes(_nearest(values, size), values, classes)
    if kind == "depth":
        depth = _nearest(values, size).astype(np.float32)
        return np.where(np.isfinite(depth) & (depth > 0), depth, np.float32(np.nan))
    if kind == "normals":
        return _normals(_nearest(values, size), content.startswith(NPY))
    marks = _marks(values, kind)
    return _any(marks, size) if kind == "edges" else _nearest(marks, size)


def shape_of(content: bytes, colour: bool = False) -> tuple[int, int]:
    """Height and width of a map."""
    return pixels(content, colour).shape[:2]  # pyright: ignore[reportReturnType]


def pixels(content: bytes, colour: bool) -> np.ndarray:
    """What a PNG or NPY file holds: [h w], or [h w 3] where `colour` is wanted."""
    if content.startswith(NPY):
        values = np.load(io.BytesIO(content), allow_pickle=False)
        if colour and values.ndim == 3 and values.shape[0] == 3 != values.shape[2]:
            values = values.transpose(1, 2, 0)
    else:
        with Image.open(io.BytesIO(content)) as image:
            if not colour and image.mode not in GREY:
                raise TaskgroveError(
                    f"it is a colour picture ({image.mode}), but each pixel needs one number: save "
                    "it as a grey or palette PNG, or as NPY"
                )
            values = np.asarray(image.convert("RGB") if colour else image)
    wanted = 3 if colour else 2
    if values.ndim != wanted or (colour and values.shape[2] != 3) or 0 in values.shape:
        want = "[height, width, 3]" if colour else "[height, width]"
        raise TaskgroveError(f"it has the shape {list(values.shape)}, but {want} is needed")
    return values


def cells(length: int, size: int) -> np.ndarray:
    """The pixel at the middle of each of `size` cells.

    >>> cells(6, 3).tolist(), cells(2, 4).tolist()
    ([1, 3, 5], [0, 0, 1, 1])
    """
    return ((2 * np.arange(size) + 1) * length) // (2 * size)


def _nearest(values: np.ndarray, size: int) -> np.ndarray:
    height, width = values.shape[:2]
    return values[cells(height, size)][:, cells(width, size)]


def _any(marks: np.ndarray, size: int) -> np.ndarray:
    """The greatest mark of each cell's pixels, 255 only where nothing else is."""
    for axis in (0, 1):
        length = marks.shape[axis]
        if length <= size:
            marks = marks.take(cells(length, size), axis)
            continue
        starts = np.arange(size) * length // size
        known = np.where(marks == IGNORED, -1, marks.astype(np.int16))
        found = np.maximum.reduceat(known, starts, axis)
        marks = np.where(found < 0, IGNORED, found).astype(np.uint8)
    return marks


def _classes(small: np.ndarray, whole: np.ndarray, classes: int) -> np.ndarray:
    if whole.dtype.kind == "f" and not np.array_equal(whole, np.round(whole)):
        raise TaskgroveError("its numbers are not whole, but class numbers are needed")
    beyond = (whole < 0) | ((whole >= classes) & (whole != IGNORED))
    if beyond.any():
        raise TaskgroveError(
            f"it has the class number {int(whole[beyond][0])}, but the {classes} classes are 0 to "
            f"{classes - 1} and 255 for not labelled: correct the map, or name more classes"
        )
    return small.astype(np.uint8)


def _marks(values: np.ndarray, kind: str) -> np.ndarray:
    """0, 1 and perhaps 255 of marks written as 0 and 1 or 0 and 255."""
    values = values.astype(np.float64)
    if not np.isfinite(values).all() or values.min() < 0 or values.max() > 255:
        raise TaskgroveError(f"{kind} are marked by 0 and 1, or by 0 and 255")
    found = np.unique(values)
    if set(found.tolist()) <= {0.0, 1.0, float(IGNORED)} and 1.0 in found:
        return values.astype(np.uint8)
    return (values > (0.5 if values.max() <= 1 else 127)).astype(np.uint8)


def _normals(values: np.ndarray, exact: bool) -> np.ndarray:
    """float32 [3 size size], checked for length and for its side."""
    n = values.astype(np.float32) if exact else values.astype(np.float32) / 127.5 - 1
    length = np.sqrt((n * n).sum(-1))  # [size size]
    there = np.isfinite(length) & (length > (1e-3 if exact else 0.03))
    known = length[there]
    if len(known) and (np.abs(known - 1) > 0.1).mean() > 0.05:
        raise TaskgroveError(
            f"its normals are not of length 1 (the median is {np.median(known):.2f}): save unit "
            "vectors as NPY, or as PNG with 127.5 (1 + n)"
        )
    if len(known) and (n[..., 2][there] < 0).mean() > 0.5:
        raise TaskgroveError(
            "most of its normals look away from the viewer (z below 0): expected x to the right, "
            "y up, z to the viewer; change the sign of z"
        )
    n = np.where(there[..., None], n / np.where(there, length, 1)[..., None], np.nan)
    return np.ascontiguousarray(n.transpose(2, 0, 1), np.float32)


def read_bytes(found: bytes | Path) -> bytes:
    """The content of what `images.place_of` found."""
    return found.read_bytes() if isinstance(found, Path) else found
