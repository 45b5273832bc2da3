"""Renamed: some tensors of a model under other names, read from where they are."""

from collections.abc import Mapping

from taskgrove.merging.models import Model, Tensor
from taskgrove.merging.static.static import Array


class Renamed:
    """A view: `names` is {new name: the model's own}."""

    def __init__(self, model: Model, names: Mapping[str, str]) -> None:
        self.label = model.label
        self.entries: Mapping[str, Tensor] = {new: model.entries[own] for new, own in names.items()}
        self._model, self._names = model, names

    def read(self, name: str, start: int, stop: int, buffer: memoryview) -> Array:
        """See `models.Model`."""
        return self._model.read(self._names[name], start, stop, buffer)
