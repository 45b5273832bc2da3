"""What a backbone is: raw columns in, one feature vector per example out.

`prepare` runs on the CPU, without gradients and without state; `forward` is the network. Everything
`prepare` returns has a leading batch axis, so a batch is sliced by slicing each tensor, and
zero is neutral as padding of a token axis, so batches are joined by `join`.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from taskgrove.errors import TaskgroveError, listed

Raw = dict[str, Any]
"""Raw columns of a batch.

`text`: list of str; `image`: uint8 [batch size size 3]; `numbers`: float32 [batch number], NaN is
missing; `categories`: one list per column, of str or None.
"""


@runtime_checkable
class Backbone(Protocol):
    """An `nn.Module` from the columns it `reads` to `width` features per example."""

    width: int
    reads: frozenset[str]

    def prepare(self, raw: Raw) -> dict[str, Tensor]:
        """Raw columns to tensors with a leading batch axis."""
        ...

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        """Prepared tensors to features [batch dim]."""
        ...

    def config(self) -> dict[str, Any]:
        """JSON that rebuilds the module without its weights."""
        ...

    # What of nn.Module the library uses.
    def __call__(self, inputs: dict[str, Tensor], /) -> Tensor: ...
    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]: ...
    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Parameter]]: ...
    def state_dict(self) -> dict[str, Any]: ...
    def train(self, mode: bool = True) -> "Backbone": ...
    def eval(self) -> "Backbone": ...


def column(raw: Raw, name: str, reader: str) -> Any:
    """`raw[name]`, or the sentence that says what is missing."""
    if name not in raw:
        raise TaskgroveError(
            f'the backbone "{reader}" reads "{name}", but the rows have {listed(raw) or "nothing"}:'
            f" name the {name} columns in tasks.yaml or choose another backbone."
        )
    return raw[name]


def texts(raw: Raw, reader: str) -> list[str]:
    """The column `text`, checked."""
    rows = column(raw, "text", reader)
    if isinstance(rows, str) or not all(isinstance(row, str) for row in rows):
        wrong = "one string" if isinstance(rows, str) else "a row that is not text"
        raise TaskgroveError(f'"text" must be a list of strings, but it is or has {wrong}.')
    return list(rows)


def join(batches: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """One batch of several prepared ones: shorter token axes are padded with zeros.

    >>> a, b = {"ids": torch.ones(1, 2)}, {"ids": torch.ones(1, 3)}
    >>> join([a, b])["ids"].tolist()
    [[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]]
    """

    def padded(tensor: Tensor, length: int) -> Tensor:
        return pad(tensor, (0, length - tensor.shape[1])) if tensor.ndim == 2 else tensor

    joined = {}
    for name in batches[0]:
        tensors = [batch[name] for batch in batches]
        length = max(tensor.shape[-1] for tensor in tensors)
        joined[name] = torch.cat([padded(tensor, length) for tensor in tensors])
    return joined
