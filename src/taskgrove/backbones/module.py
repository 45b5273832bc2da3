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
    ):
        super().__init__()
        self.module, self.width, self.reads = module, width, frozenset(reads)
        self.preparation = prepare
        wrong = self.reads - set(COLUMNS)
        if wrong or not self.reads:
            raise TaskgroveError(
                f"a backbone reads some of {listed(COLUMNS)}, but this one reads"
                f" {listed(sorted(self.reads)) or 'nothing'}."
            )

    def prepare(self, raw: Raw) -> dict[str, Tensor]:
        return self.preparation(raw)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        features = self.module(inputs)
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
) -> Backbone:
    """`module(prepare(raw))` must return features [batch width].

    Saving keeps the weights; loading needs the code again: `load(folder, module=wrap(...))`.
    """
    return Wrapped(module, width, reads, prepare)
