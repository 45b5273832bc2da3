"""Static: what a merging method without training declares about itself.

A method is one pure function on a block of numbers, `merge(base, deltas, parameters, at)`. What it
must know of more than the block (a threshold, a norm) it looks for first, with `look`, which goes
through all blocks of a tensor or of the model as often as it needs, and finds small arrays. So a
merge of K models holds a few blocks of each, whatever the size of the models.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeVar, runtime_checkable

import numpy as np

from taskgrove.shapes import Float

Array = np.ndarray
Seen = Mapping[str, Array]  # what a look found
Over = Literal["tensor", "model"]
T = TypeVar("T")


@dataclass(frozen=True)
class At:
    """Which numbers of which tensor a block holds, and what was seen of the whole."""

    name: str
    shape: tuple[int, ...]  # of the tensor
    start: int  # the block's first number, counted along the flattened tensor
    seen: Seen = field(default_factory=dict)
    beside: Mapping[str, Any] = field(default_factory=dict)  # see `Static.beside`


@runtime_checkable
class Blocks(Protocol):
    """All blocks of a tensor, or of all merged tensors one after the other, in a fixed order."""

    @property
    def models(self) -> int: ...
    @property
    def size(self) -> int: ...  # numbers in one model

    def map(
        self,
        look: Callable[[Float[Array, " number"], Float[Array, "model number"], At], T],
        every: int = 1,  # 4: the first of each four blocks
    ) -> Iterator[T]:
        """What `look` returns for each block, in order; blocks are read anew each time.

        The arrays are used again for other blocks: return something of your own.
        """
        ...


@dataclass(frozen=True)
class Static:
    """A method and its input contract.

    `parameters`: a frozen dataclass; its fields, with `Annotated[type, "help"]`, are the
    command line's options. `merge(base, deltas, parameters, at)`: [number], [model number] -> the
    merged [number]; with takes="rows" the block is whole rows, [row dim] and [model row dim] (a
    vector is one row); with takes="matrix" a whole matrix [row column], and `deltas` a sequence
    that reads a model's when it is asked for it. Deltas are tuned minus base; without a base they
    are the models' own weights and `base` is 0.
    """

    about: str  # one line for the command line's list, with author and year
    parameters: type[Any]
    merge: Callable[[Any, Any, Any, At], Array]
    look: Callable[[Blocks, Any], Seen] | None = None
    over: Callable[[Any], Over] = lambda parameters: "tensor"  # noqa: ARG005 what a look goes through
    takes: Literal["block", "rows", "matrix"] = "block"
    passes: int = 1  # times that each input is read, looks included
    base: Literal["needed", "optional"] = "needed"
    models: tuple[int, int | None] = (1, None)  # least and most tuned models
    whole: tuple[str, ...] = ()  # parameters that a look over the model cannot have vary
    matrix: Callable[[tuple[int, ...]], bool] = lambda shape: len(shape) == 2
    otherwise: Callable[[Any, Any, Any, At], Array] | None = None  # for blocks of other tensors
    # Other folders each model needs, such as "fisher": `at.beside["fisher"]` has their numbers, as
    # [model number] for a block, and for a matrix as a sequence that reads a model's when asked.
    beside: tuple[str, ...] = ()
