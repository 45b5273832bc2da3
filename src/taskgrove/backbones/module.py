"""Any `nn.Module` of the user's own as a backbone, from Python."""

from collections.abc import Callable, Iterable
from typing import Any, final

from torch import Tensor, nn

from taskgrove.backbones.backbone import Backbone, Raw
from taskgrove.errors import TaskgroveError, listed

COLUMNS = ("text", "image", "table")


@final
class Wrapped(nn.Module):
    def __init__(
        self,
        module: nn.Module,
        width: int,
        reads: Iterable[str],
        prepare: Callable[[Raw], dict[str, Tensor]],
        maps: int = 0,
    ):
        super().__init__()
        self.module, self.width, self.reads = module, width, frozenset(reads)
        self.preparation, self.map_width = prepare, maps
        wrong = self.reads - set(COLUMNS)
        if wrong or not self.reads:
            raise TaskgroveError(
                f"a backbone reads some of {listed(COLUMNS)}, but this one reads"
                f" {listed(sorted(self.reads)) or 'nothing'}."
            )

    def prepare(self, raw: Raw) -> dict[str, Tensor]:
        return self.preparation(raw)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        found = self.module(inputs)
        return self._checked(found[0] if self.map_width and isinstance(found, tuple) else found)

    def with_maps(self, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        found = self.module(inputs)
        if not isinstance(found, tuple) or len(found) != 2 or found[1].ndim != 4:
            got = "no pair" if not isinstance(found, tuple) else "a pair without a map of four axes"
            raise TaskgroveError(
                f"the wrapped module must return features [batch, {self.width}] and a map [batch,"
                f" {self.map_width}, row, column], but it returned {got}."
            )
        if found[1].shape[1] != self.map_width:
            raise TaskgroveError(
                f"the wrapped module's map has {found[1].shape[1]} channels, but wrap() was told"
                f" {self.map_width} (maps=): name its true number."
            )
        return self._checked(found[0]), found[1]

    def _checked(self, features: Any) -> Tensor:
        if not isinstance(features, Tensor) or features.shape[1:] != (self.width,):
            got = list(features.shape) if isinstance(features, Tensor) else type(features).__name__
            raise TaskgroveError(
                f"the wrapped module must return features [batch, {self.width}], but it returned"
                f" {got}: pass its true width to wrap(), or pool its output."
            )
        return features

    def config(self) -> dict[str, Any]:
        """Enough to check a module, not to build one: code is not saved."""
        arguments = {"width": self.width, "reads": sorted(self.reads)}
        return {"class": "module", "arguments": arguments}


def wrap(
    module: nn.Module,
    width: int,
    reads: Iterable[str],
    prepare: Callable[[Raw], dict[str, Tensor]],
    maps: int = 0,
) -> Backbone:
    """`module(prepare(raw))` must return features [batch width].

    With `maps` it returns features and a map [batch maps row column], for targets with a value for
    each pixel.

    Saving keeps the weights; loading needs the code again: `load(folder, module=wrap(...))`.
    """
    return Wrapped(module, width, reads, prepare, maps)
