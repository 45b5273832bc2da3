"""Parquet files, and folders of them with hive-style names (country=fr/part-0.parquet)."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as arrow_dataset

from taskgrove.errors import TaskgroveError
from taskgrove.tasks.columns import check_columns, conform

DAMAGE = (pa.ArrowException, OSError, UnicodeDecodeError)


def parquet_batches(path: Path, columns: dict[str, str]) -> Iterator[pa.RecordBatch]:
    """The wanted columns, batch by batch."""
    dataset = open_parquet(path)
    check_columns(columns, dataset.schema.names, path.name)
    names = class_names(dataset.schema)
    first = 0
    try:
        for batch in dataset.to_batches(columns=list(columns), batch_readahead=2):
            batch.validate(full=True)  # some writers store text that is not UTF-8
            if batch.num_rows:
                yield conform(batch, columns, path.name, first, names)
                first += batch.num_rows
    except DAMAGE as error:
        raise _damaged(path, error) from None
    if not first:
        raise TaskgroveError(f"{path.name} has no rows")


def parquet_head(path: Path, rows: int) -> pa.Table:
    """The first rows, all columns."""
    try:
        head = open_parquet(path).head(rows)
        head.validate(full=True)
    except DAMAGE as error:
        raise _damaged(path, error) from None
    return head


def open_parquet(path: Path) -> Any:
    """A file or folder as one dataset."""
    if path.is_file() and path.stat().st_size == 0:
        raise TaskgroveError(f"{path.name} is empty")
    if path.is_file():
        with path.open("rb") as file:
            start = file.read(4)
            file.seek(max(-4, -path.stat().st_size), 2)
            if (start, file.read(4)) != (b"PAR1", b"PAR1"):
                raise TaskgroveError(f"{path.name} is not a whole Parquet file; write it again")
    try:
        dataset = arrow_dataset.dataset(path, format="parquet", partitioning="hive")
        dataset.schema.names  # noqa: B018 (fails where a name is not UTF-8)
    except DAMAGE as error:
        raise _damaged(path, error) from None
    return dataset


def class_names(schema: pa.Schema) -> dict[str, list[str]]:
    """Label names of integer columns, as Hugging Face's datasets notes them in the schema."""
    noted = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    features = noted.get("info", {}).get("features") or {}
    return {
        column: feature["names"]
        for column, feature in features.items()
        if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
    }


def _damaged(path: Path, error: Exception) -> TaskgroveError:
    return TaskgroveError(
        f"{path.name} cannot be read as Parquet ({str(error).splitlines()[0][:120]})"
    )
