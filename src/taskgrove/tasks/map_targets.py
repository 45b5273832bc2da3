"""From a column of map files to labels: values [label size size], normals [label 3 size size].

A row whose cell is empty has no map. Above `limit` bytes the maps lie in a nameless file of the
cache. What a whole task's maps tell is checked here: sizes that fit the pictures', edges that are
somewhere, depths in one unit, and, beside a depth, the sign of the normals' y.
"""

import io
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from taskgrove.errors import TaskgroveError
from taskgrove.tasks.cache import nameless_array
from taskgrove.tasks.images import BATCH, place_of
from taskgrove.tasks.inputs import Inputs
from taskgrove.tasks.map_files import IGNORED, decode_map, read_bytes, shape_of
from taskgrove.tasks.readers import Rows
from taskgrove.tasks.schema import TaskSpec
from taskgrove.tasks.targets import Labels, read_labels
from taskgrove.tasks.task import MAPS, Task

EXIF_ORIENTATION = 274
UNITS_APART = 50  # medians of depth maps this many times apart are in two units


def read_target(
    task: str, spec: TaskSpec, target: str, rows: Rows, inputs: Inputs, limit: int
) -> Labels:
    """Labels of any kind, before anything is left out."""
    if spec.classes is not None and spec.kind != "segmentation":
        raise TaskgroveError(
            f'task "{task}": classes: is for kind: segmentation, not for {spec.kind}: remove it'
        )
    if spec.kind in MAPS:
        return read_maps(task, spec, target, rows, inputs, limit)
    return read_labels(task, spec, target, rows)


def read_maps(
    task: str, spec: TaskSpec, target: str, rows: Rows, inputs: Inputs, limit: int
) -> Labels:
    """Every map of a column, at the pictures' size."""
    image, size = inputs.image, inputs.image_size
    if image is None:
        raise TaskgroveError(f'task "{task}": maps ({spec.kind}) need pictures as input (image:)')
    names = class_names(task, spec)
    there = np.array([not _empty(v) for v, _ in _cells(rows, target)], bool)
    found = np.flatnonzero(there)
    if not len(found):
        raise TaskgroveError(
            f'task "{task}": column "{target}" of {rows.name} is empty in every row; name the '
            "column with the maps (target: COLUMN)"
        )
    one = (3, size, size) if spec.kind == "normals" else (size, size)
    dtype = np.float32 if spec.kind in ("depth", "normals") else np.uint8
    shape = (len(found), *one)
    large = int(np.prod(shape)) * np.dtype(dtype).itemsize > limit
    values = nameless_array(shape, dtype) if large else np.zeros(shape, dtype)
    place = np.cumsum(there) - 1  # [row]

    def fill(job: tuple[int, Any, Any]) -> None:
        row, (cell, folder), (picture, _) = job
        if there[row]:
            try:
                content = read_bytes(place_of(cell, folder))
                check_ratio(content, read_bytes(place_of(picture, folder)), spec.kind)
                values[place[row]] = decode_map(content, spec.kind, size, len(names))
            except (TaskgroveError, OSError, ValueError) as error:
                raise TaskgroveError(_where(task, target, rows, row, cell, error)) from None

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        jobs = zip(range(len(there)), _cells(rows, target), _cells(rows, image), strict=True)
        while batch := [job for job, _ in zip(jobs, range(BATCH), strict=False)]:
            list(pool.map(fill, batch))
    return Labels(found, values, names)


def class_names(task: str, spec: TaskSpec) -> tuple[str, ...]:
    """The classes of a segmentation, by name or by number; none for other maps."""
    if spec.kind != "segmentation":
        return ()
    given = spec.classes
    names = tuple(str(n) for n in range(given)) if isinstance(given, int) else tuple(given or ())
    if not 2 <= len(names) <= IGNORED or len(set(names)) < len(names):
        raise TaskgroveError(
            f'task "{task}": a segmentation needs 2 to 255 classes, each once, in the order of'
            " their numbers (classes: [road, car], or classes: 9)"
        )
    return names


def check_ratio(content: bytes, picture: bytes, kind: str) -> None:
    """A map covers its picture: both have the same shape, up to their scale."""
    h, w = shape_of(content, kind == "normals")
    with Image.open(io.BytesIO(picture)) as image:
        width, height = image.size
        if image.getexif().get(EXIF_ORIENTATION, 1) > 4:  # lies on its side
            width, height = height, width
    if abs(h * width - w * height) > 0.02 * max(h * width, w * height) + max(width, height):
        raise TaskgroveError(
            f"it is {w} x {h} pixels and its picture {width} x {height}, which is another shape: a "
            "map must cover the same view as its picture"
        )


def map_facts(name: str, kind: str, labels: Labels, train: np.ndarray) -> tuple[float, float]:
    """Center and scale, by the maps that `train` [label] marks; refuses maps that teach nothing."""
    values = labels.values[train]
    if kind == "edges" and len(values) and not (values == 1).any():
        raise TaskgroveError(
            f'task "{name}": no training map has an edge, every pixel is 0: expected 1 or 255 at '
            "boundaries"
        )
    if kind != "depth":
        return 0.0, 1.0
    medians = np.array([np.median(d[~np.isnan(d)]) for d in values if not np.isnan(d).all()])
    if not len(medians):
        raise TaskgroveError(f'task "{name}": no training map has a depth above 0')
    _check_units(name, medians)
    center = float(np.nanmean(values, dtype=np.float64))
    scale = float(np.nanstd(values, dtype=np.float64))
    if not scale > 1e-7 * abs(center):
        raise TaskgroveError(
            f'task "{name}": every depth is {center:g}, so there is nothing to learn'
        )
    return center, scale


def _check_units(name: str, medians: np.ndarray) -> None:
    """A gap between maps' medians that no scene explains."""
    order = np.sort(medians)
    gaps = order[1:] / order[:-1]
    if len(gaps) and gaps.max() > UNITS_APART:
        at = int(gaps.argmax())
        raise TaskgroveError(
            f'task "{name}": {at + 1} training maps have a median depth up to {order[at]:g} and '
            f"{len(order) - at - 1} of {order[at + 1]:g} or more: they seem to be in different "
            "units; bring all to one"
        )


def flipped(normals: np.ndarray, depth: np.ndarray) -> bool:
    """Whether y points down in `normals` [row 3 h w], as the slopes of `depth` [row h w] say.

    Where depth grows to the right, the surface looks to the right; where it grows downwards, y up
    means that the surface looks down: n_x ~ dd/dx and n_y ~ -dd/drow.
    """
    d_row, d_column = (np.asarray(np.gradient(depth.astype(np.float64), axis=n)) for n in (1, 2))
    return _agree(normals[:, 0], d_column) > 0.1 and _agree(normals[:, 1], -d_row) < -0.1


def _agree(a: np.ndarray, b: np.ndarray) -> float:
    """The mean sign of a b where neither is missing or 0."""
    product = a * b
    product = product[np.isfinite(product) & (product != 0)]
    return float(np.sign(product).mean()) if len(product) else 0.0


def map_notes(tasks: Mapping[str, Task], labels: Mapping[str, Labels]) -> list[str]:
    """What several maps of the same rows tell together."""
    notes = []
    for name, task in tasks.items():
        beside = [t.name for t in tasks.values() if t.kind == "depth" and t.table == task.table]
        if task.kind != "normals" or not beside:
            continue
        rows = np.intersect1d(labels[name].rows, labels[beside[0]].rows)[:64]
        of = (maps.values[np.searchsorted(maps.rows, rows)] for maps in
              (labels[name], labels[beside[0]]))  # fmt: skip
        if len(rows) and flipped(*of):
            notes.append(
                f'task "{name}": y seems to be flipped: beside the depths of "{beside[0]}" the '
                "normals' y points down, expected up (as x right, z to the viewer); change its sign"
            )
    return notes


def _cells(rows: Rows, column: str) -> Iterator[tuple[Any, Path]]:
    for piece in rows.pieces:
        for chunk in piece.table.column(column).chunks:
            for value in chunk:
                yield value.as_py(), piece.folder


def _empty(cell: Any) -> bool:
    if isinstance(cell, dict):
        cell = cell["bytes"] or cell["path"]
    return not (cell.strip() if isinstance(cell, str) else cell)


def _where(task: str, target: str, rows: Rows, row: int, cell: Any, error: Exception) -> str:
    path = cell["path"] if isinstance(cell, dict) else cell
    file = f' "{path}"' if isinstance(path, str) else ""
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return f'task "{task}": the map{file} of {rows.where(row)} (column "{target}"): {reason}'
