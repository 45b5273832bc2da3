"""Images: opened once, before training, as uint8 [row size size 3].

An image is turned as its camera noted, laid on white where it is transparent, and scaled to a
square (Lanczos downwards, bilinear upwards); sides of different length are scaled differently,
nothing is cut off. Many images are kept in the cache under a digest of their content.
"""

import io
import os
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from taskgrove.errors import TaskgroveError
from taskgrove.tasks.cache import VERSION, cache_folder, written_aside
from taskgrove.tasks.readers import Rows

KEPT = 1_000  # this many images and more are kept in the cache
BATCH = 512  # rows opened at once
Progress = Callable[[str, int, int], None]  # what, done, of how many


def decode(content: bytes, size: int) -> np.ndarray:
    """uint8 [size size 3] of an image file's bytes."""
    with Image.open(io.BytesIO(content)) as image:
        image.draft("RGB", (2 * size, 2 * size))  # a JPEG is scaled while it is read
        upright = _rgb(ImageOps.exif_transpose(image))
    if upright.size != (size, size):
        shrinks = max(upright.size) > size
        how = Image.Resampling.LANCZOS if shrinks else Image.Resampling.BILINEAR
        upright = upright.resize((size, size), how, reducing_gap=3.0 if shrinks else None)
    return np.asarray(upright, np.uint8)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        deep = np.asarray(image).astype(np.float64)
        top = 65535.0 if deep.max(initial=0) > 255 else 255.0
        return Image.fromarray(np.uint8(np.clip(deep / top, 0, 1) * 255)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def place_of(value: Any, folder: Path) -> bytes | Path:
    """The bytes of an image cell or its file: bytes, a path from `folder`, or {bytes, path}."""
    if isinstance(value, dict):
        value = value["bytes"] if value["bytes"] is not None else value["path"]
    if not value:
        raise OSError("the cell is empty")
    if isinstance(value, bytes):
        return value
    path = folder / value
    if not path.is_file():
        raise OSError(f'there is no file "{value}" in {folder}')
    return path


def open_images(
    rows: Rows,
    column: str,
    size: int,
    skip: bool = False,
    progress: Progress | None = None,
    limit: int = 2**28,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All images [row size size 3], digests of their files [row], and the unreadable rows' numbers.

    Unless `skip`, an unreadable image is an error that names its row. Above `limit` bytes the
    images are memory-mapped.
    """
    total = rows.table.num_rows
    shape = (total, size, size, 3)
    absent: dict[int, str] = {}
    name = _identity(rows, column, size, absent)
    _refuse(rows, absent, skip)
    large = total * size * size * 3 > limit
    if total < KEPT and not large:
        images = np.zeros(shape, np.uint8)
        facts = _fill(images, rows, column, progress, skip)
    else:
        path, beside = (cache_folder() / f"images-{name}{end}" for end in (".npy", ".rows.npy"))
        if not (path.exists() and beside.exists()):
            with written_aside(path) as aside, written_aside(beside) as aside_too:
                images = np.lib.format.open_memmap(aside, "w+", np.uint8, shape)
                facts = _fill(images, rows, column, progress, skip)
                del images
                with aside_too.open("wb") as sink:
                    np.save(sink, facts)
        images = np.load(path, mmap_mode="r" if large else None)
        facts = np.load(beside)
    failed = np.flatnonzero(facts["failed"])
    _refuse(rows, {int(row): "it does not open" for row in failed}, skip)
    return images, facts["digest"], failed


def _identity(rows: Rows, column: str, size: int, absent: dict[int, str]) -> str:
    """A digest of all images: of bytes themselves, of the place, size and time of files.

    Rows without an image are added to `absent`.
    """
    digest = blake2b(f"{VERSION} {size}".encode(), digest_size=16)
    for batch in _batches(rows, column):
        for row, value, folder in batch:
            try:
                found = place_of(value, folder)
                facts = found.stat() if isinstance(found, Path) else None
                what = f"{found}\0{facts.st_size}\0{facts.st_mtime_ns}".encode() if facts else found
            except OSError as error:
                absent[row] = str(error)
                what = b"absent"
            digest.update(blake2b(what, digest_size=16).digest())  # pyright: ignore
    return digest.hexdigest()


def _fill(
    images: np.ndarray, rows: Rows, column: str, progress: Progress | None, skip: bool
) -> np.ndarray:
    """Opens every image, in threads; returns digest and failed for each row."""
    total, done = len(images), 0
    facts = np.zeros(total, [("digest", "<u8"), ("failed", "?")])
    problems: dict[int, str] = {}

    def some(jobs: list[tuple[int, Any, Path]]) -> None:
        for row, value, folder in jobs:
            try:
                found = place_of(value, folder)
                content = found.read_bytes() if isinstance(found, Path) else found
                short = blake2b(content, digest_size=8).digest()
                facts["digest"][row] = int.from_bytes(short, "little")
                images[row] = decode(content, images.shape[1])
            except Exception as error:  # Pillow's readers raise many kinds
                problems[row] = _named(value, error)

    with warnings.catch_warnings(), ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        warnings.simplefilter("ignore")  # Pillow warns of huge images and odd palettes
        for batch in _batches(rows, column):
            list(pool.map(some, [batch[start : start + 32] for start in range(0, len(batch), 32)]))
            done += len(batch)
            if progress:
                progress(f"opening the images of {rows.name}", done, total)
    _refuse(rows, problems, skip)
    facts["failed"][list(problems)] = True
    return facts


def _named(value: Any, error: Exception) -> str:
    """The picture's file, where it has one, and why it does not open."""
    unknown = isinstance(error, UnidentifiedImageError) or not str(error)
    reason = "it is no picture that can be read" if unknown else str(error).splitlines()[0]
    path = value["path"] if isinstance(value, dict) else value
    return f'"{path}": {reason}' if isinstance(path, str) and path not in reason else reason


def _batches(rows: Rows, column: str) -> Iterator[list[tuple[int, Any, Path]]]:
    row = 0
    for piece in rows.pieces:
        for chunk in piece.table.column(column).chunks:
            for start in range(0, len(chunk), BATCH):
                values = chunk.slice(start, BATCH).to_pylist()
                yield [(row + n, value, piece.folder) for n, value in enumerate(values)]
                row += len(values)


def _refuse(rows: Rows, problems: dict[int, str], skip: bool) -> None:
    if problems and not skip:
        row = min(problems)
        more = f" (and {len(problems) - 1} more rows)" if len(problems) > 1 else ""
        raise TaskgroveError(
            f"the image in {rows.where(row)}{more} cannot be opened: {problems[row]}; mend it, or "
            "set on_unreadable: skip to leave such rows out"
        )


def some_images(rows: Rows, column: str, size: int) -> np.ndarray:
    """The images of a few new rows [row size size 3]; an unreadable one is an error."""
    images = np.zeros((rows.table.num_rows, size, size, 3), np.uint8)
    _fill(images, rows, column, None, False)
    return images
