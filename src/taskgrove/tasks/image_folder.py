"""A folder of images: the class is the sub-folder.

Folders called train, validation and test may stand above the classes.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from taskgrove.errors import TaskgroveError
from taskgrove.tasks.split_names import split_name

EXTENSIONS = (".png", ".jpg", ".jpeg", ".gif", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm")


def is_image(name: str) -> bool:
    """Whether a file's name ends like an image's."""
    return name.lower().endswith(EXTENSIONS)


def first_data(folder: Path) -> str | None:
    """The first Parquet file or image anywhere in the folder; its kind is the folder's."""
    files = (name for _, names in _walk(folder) for name in sorted(names))
    return next((name for name in files if name.endswith(".parquet") or is_image(name)), None)


def _walk(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Every folder and its files, without hidden ones."""
    for place, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield place, [name for name in names if not name.startswith(".")]


def image_parts(folder: Path) -> dict[str | None, pa.Table]:
    """For each split (None if there are no split folders) the columns image, label, file."""
    files = sorted(
        os.path.relpath(os.path.join(place, name), folder).replace(os.sep, "/")
        for place, names in _walk(folder)
        for name in names
        if is_image(name)
    )
    if not files:
        raise TaskgroveError(f"folder {folder.name} holds no image ({', '.join(EXTENSIONS)})")
    tops = {file.split("/")[0] for file in files if "/" in file}
    splits = {top: split_name(top) for top in tops}
    divided = bool(tops) and all(splits.values())
    parts: dict[str | None, list[tuple[str, str]]] = {}
    for file in files:
        steps = file.split("/")
        split = splits[steps[0]] if divided and len(steps) > 1 else None
        below = steps[1:] if split else steps
        if len(below) < 2:
            raise TaskgroveError(
                f"image {file} of {folder.name} lies in no class's folder; move it to "
                f"{folder.name}/{steps[0] + '/' if split else ''}CLASS/{steps[-1]}"
            )
        parts.setdefault(split, []).append((file, below[0]))
    return {split: _table(rows) for split, rows in parts.items()}


def _table(rows: list[tuple[str, str]]) -> pa.Table:
    files = pa.array([file for file, _ in rows], pa.string())
    labels = pa.array([label for _, label in rows], pa.string())
    return pa.table({"image": files, "label": labels, "file": files})
