"""Model: named tensors that can be read in ranges, wherever they are."""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from taskgrove.merging.files.dtypes import BY_NUMPY
from taskgrove.merging.static.static import Array


@runtime_checkable
class Tensor(Protocol):
    """What is known of a tensor before it is read."""

    @property
    def dtype(self) -> str: ...  # safetensors' name, such as "BF16"
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def size(self) -> int: ...
    @property
    def bytes(self) -> int: ...


@runtime_checkable
class Model(Protocol):
    """A checkpoint, an adapter on a base, arrays in memory."""

    @property
    def label(self) -> str: ...  # how errors name it
    @property
    def entries(self) -> Mapping[str, Tensor]: ...

    def read(self, name: str, start: int, stop: int, buffer: memoryview) -> Array:
        """Numbers start..stop of the flattened tensor in its own dtype.

        `buffer` has room for them and may be used, or not.
        """
        ...


class Held:
    """A tensor in memory."""

    def __init__(self, values: Array) -> None:
        self.values = values.reshape(-1)
        self.dtype, self.shape = BY_NUMPY[values.dtype], values.shape
        self.size, self.bytes = values.size, values.nbytes


class Arrays:
    """A model in memory: named arrays, held and not copied where they are contiguous."""

    def __init__(self, label: str, arrays: Mapping[str, Array]) -> None:
        self.label = label
        self.entries = {name: Held(values) for name, values in arrays.items()}

    def read(self, name: str, start: int, stop: int, buffer: memoryview) -> Array:  # noqa: ARG002
        """A view."""
        return self.entries[name].values[start:stop]
