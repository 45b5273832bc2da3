"""One column of any source as the type of its role.

Roles: string (text, keys, categories, classes, splits), number (float64), labels (text, see
`as_labels`), image (a path, bytes, or {bytes, path}). Missing is null. `name` is the source's name
in messages.
"""

# pyright: reportAttributeAccessIssue=false
# pyarrow.compute makes its functions when it is imported

from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc

from taskgrove.errors import TaskgroveError, did_you_mean

NULLS = ("", "NA", "N/A", "#N/A", "null", "NULL", "None")  # no number, in a number column
PART = "\x02"  # stands before each label of a cell that came as a list
IMAGE = pa.struct({"bytes": pa.binary(), "path": pa.string()})


class MissingColumnError(TaskgroveError):
    """A column that is not in its file; whoever knows why it was wanted may add a hint."""

    def __init__(self, column: str, sentence: str) -> None:
        super().__init__(sentence)
        self.column = column


def check_columns(wanted: Iterable[str], there: Iterable[str], name: str) -> None:
    """Each wanted column is there."""
    there = list(there)
    for column in wanted:
        if column not in there:
            raise MissingColumnError(
                column,
                f'column "{column}" is not in {name} (it has: {plain_list(there)}).'
                + did_you_mean(column, there),
            )


def plain_list(names: Iterable[str], most: int = 12) -> str:
    """Names without quotes, cut after `most`."""
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def conform(
    batch: pa.RecordBatch,
    columns: dict[str, str],
    name: str,
    first: int = 0,
    names: dict[str, list[str]] | None = None,
) -> pa.RecordBatch:
    """The columns of a batch by role; `first` is its first row's number in the source, from 0.

    `names` holds the label names of integer-coded columns (Hugging Face's ClassLabel).
    """
    arrays = []
    for column, role in columns.items():
        array = _plain_array(batch.column(batch.schema.get_field_index(column)))
        if names and column in names and pa.types.is_integer(array.type) and role != "number":
            array = _named(array, names[column])
        arrays.append(
            as_number(array, column, name, first)
            if role == "number"
            else CASTS[role](array, column, name)
        )
    return pa.RecordBatch.from_arrays(arrays, names=list(columns))


def _plain_array(array: pa.Array) -> pa.Array:
    """Without dictionaries and extension types."""
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    return array.dictionary_decode() if isinstance(array, pa.DictionaryArray) else array


def _named(codes: pa.Array, names: list[str]) -> pa.Array:
    """Label names for codes; -1 (no label) becomes null."""
    codes = pc.if_else(pc.less(codes, 0), pa.scalar(None, codes.type), codes)
    return pa.array(names, pa.string()).take(codes)


def as_string(array: pa.Array, column: str, name: str) -> pa.Array:
    """Text, numbers, booleans, dates as text; 3.0 becomes "3"."""
    kind = array.type
    if pa.types.is_nested(kind):
        hint = " (lists of labels need kind: labels)" if "list" in str(kind) else ""
        raise TaskgroveError(f'column "{column}" of {name} holds {kind}, but text is needed{hint}')
    try:
        return array if kind == pa.string() else pc.cast(array, pa.string())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise TaskgroveError(
            f'column "{column}" of {name} holds {kind}, which is not text'
        ) from None


def as_number(array: pa.Array, column: str, name: str, first: int = 0) -> pa.Array:
    """Float64; text is read as numbers and the first that is none is named."""
    kind = array.type
    if pa.types.is_boolean(kind):
        array = pc.cast(array, pa.int8())
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return _parse(array, column, name, first)
    if pa.types.is_temporal(kind) or pa.types.is_nested(kind):
        raise TaskgroveError(f'column "{column}" of {name} holds {kind}, but numbers are needed')
    try:
        return pc.cast(array, pa.float64(), safe=False)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise TaskgroveError(
            f'column "{column}" of {name} holds {kind}, but numbers are needed'
        ) from None


def _parse(array: pa.Array, column: str, name: str, first: int) -> pa.Array:
    array = pc.utf8_trim_whitespace(array)
    absent = pc.is_in(array, pa.array(NULLS, array.type))
    array = pc.if_else(absent, pa.scalar(None, array.type), array)
    try:
        return pc.cast(array, pa.float64())
    except pa.ArrowInvalid:
        for row, value in enumerate(array.to_pylist()):
            if value is not None and not is_number(value):
                raise not_a_number(value, column, name, first + row) from None
        return pa.array([None if v is None else float(v) for v in array.to_pylist()], pa.float64())


def is_number(text: str) -> bool:
    """Whether a cell reads as a number.

    >>> is_number(" 1e3 "), is_number("1,000"), is_number("1_000")
    (True, False, False)
    """
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text


def not_a_number(value: object, column: str, name: str, row: int) -> TaskgroveError:
    """The error for a cell that should be a number; `row` counts from 0."""
    return TaskgroveError(
        f'row {row + 1} of {name} has "{value}" in column "{column}", which is not a number; '
        "correct it, empty the cell if it is missing, or do not use the column as numbers"
    )


def as_labels(array: pa.Array, column: str, name: str) -> pa.Array:
    """Text to be cut at a separator later; a list becomes PART + "first" + PART + "second" ..."""
    kind = array.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        parts = pc.cast(array, pa.list_(pa.string()))
        return pa.array([listed_labels(cell) for cell in parts.to_pylist()], pa.string())
    return as_string(array, column, name)


def listed_labels(parts: list[str | None] | None) -> str | None:
    """A list of labels as one cell; an empty list is a cell without labels, None is missing."""
    if parts is None:
        return None
    return "".join(PART + part for part in parts if part is not None) or PART


def as_image(array: pa.Array, column: str, name: str) -> pa.Array:
    """A path, bytes, or {bytes, path}."""
    kind = array.type
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        paths = "path" if kind.get_field_index("path") >= 0 else None
        empty = pa.nulls(len(array), pa.string())
        parts = [
            pc.cast(pc.struct_field(array, "bytes"), pa.binary()),
            pc.cast(pc.struct_field(array, paths), pa.string()) if paths else empty,
        ]
        return pa.StructArray.from_arrays(parts, fields=list(IMAGE))
    if pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
        return pc.cast(array, pa.binary())
    if pa.types.is_binary(kind) or pa.types.is_string(kind):
        return array
    if pa.types.is_large_string(kind) or pa.types.is_null(kind):
        return pc.cast(array, pa.string())
    raise TaskgroveError(
        f'column "{column}" of {name} holds {kind}, but an image is a path, bytes, or '
        "{bytes, path}"
    )


CASTS = {"string": as_string, "labels": as_labels, "image": as_image}
