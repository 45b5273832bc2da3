"""Hugging Face datasets: a folder from `save_to_disk`, one laid out like the hub, `hub:owner/name`.

The Arrow data are read directly (already memory-mapped); images stay undecoded, label codes get
names.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

from taskgrove.errors import TaskgroveError
from taskgrove.tasks.columns import check_columns, conform
from taskgrove.tasks.parquet import class_names
from taskgrove.tasks.split_names import split_name

SAVED = ("dataset_dict.json", "state.json")  # one of these marks a folder from save_to_disk
HUB = "hub:"


def is_saved_dataset(folder: Path) -> bool:
    """Whether `save_to_disk` wrote the folder."""
    return any((folder / name).is_file() for name in SAVED)


def is_hub_like(folder: Path) -> bool:
    """Whether it is laid out as on the hub: Parquet files, there or in data/, named by split."""
    files = [*folder.glob("*.parquet"), *folder.glob("data/*.parquet")]
    return any(split_name(re.split(r"[-_.]", file.name)[0]) for file in files)


def dataset_parts(source: str | Path) -> dict[str | None, pa.Table]:
    """The Arrow table of each split, all columns; the key is None for a dataset without splits."""
    import datasets

    with _quiet():
        try:
            if isinstance(source, Path) and is_saved_dataset(source):
                loaded = datasets.load_from_disk(str(source))
            else:
                loaded = datasets.load_dataset(str(source).removeprefix(HUB))
        except Exception as error:  # whatever its many readers raise
            reason = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
            raise TaskgroveError(f"dataset {source} cannot be loaded ({reason})") from None
    if isinstance(loaded, datasets.Dataset):
        return {None: loaded.data.table}
    return {str(split): part.data.table for split, part in loaded.items()}  # pyright: ignore


def table_batches(table: pa.Table, columns: dict[str, str], name: str) -> Iterator[pa.RecordBatch]:
    """The wanted columns of an Arrow table by role."""
    check_columns(columns, table.column_names, name)
    names = class_names(table.schema)
    first = 0
    for batch in table.select(list(columns)).to_batches():
        yield conform(batch, columns, name, first, names)
        first += batch.num_rows
    if not first:
        raise TaskgroveError(f"{name} has no rows")


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the library's own progress bars."""
    import datasets

    shown = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()
