"""Rows of a chunked table by number, without joining its chunks.

`pa.Table.take` may first concatenate a column: for a memory-mapped table that reads all of it.
Here each row's chunk is found by binary search, so a batch touches only the chunks it needs.
Symbols: rows int64 [batch], in any order, repeats allowed; the result keeps their order.
"""

import numpy as np
import pyarrow as pa


def take(table: pa.Table, rows: np.ndarray) -> pa.Table:
    """The rows `rows` of `table`, one chunk a column."""
    rows = np.asarray(rows, np.int64)
    if len(rows) and (rows.min() < 0 or rows.max() >= table.num_rows):
        raise IndexError(f"rows {rows.min()} to {rows.max()} of a table of {table.num_rows} rows")
    columns = [take_column(table.column(i), rows) for i in range(table.num_columns)]
    return pa.Table.from_arrays(columns, schema=table.schema)


def take_column(column: pa.ChunkedArray, rows: np.ndarray) -> pa.Array:
    """The same for one column."""
    chunks = column.chunks
    if not len(rows) or not chunks:
        return pa.array([], column.type)
    if len(chunks) == 1:
        return chunks[0].take(pa.array(rows))
    ends = np.cumsum([len(chunk) for chunk in chunks])  # [chunk]
    home = np.searchsorted(ends, rows, side="right")  # [batch]
    order = np.argsort(home, kind="stable")  # [batch]
    used, first = np.unique(home[order], return_index=True)
    starts = ends - [len(chunk) for chunk in chunks]
    parts = [
        chunks[i].take(pa.array(rows[piece] - starts[i]))
        for i, piece in zip(used, np.split(order, first[1:]), strict=True)
    ]
    back = np.empty(len(rows), np.int64)
    back[order] = np.arange(len(rows))
    return pa.concat_arrays(parts).take(pa.array(back))
