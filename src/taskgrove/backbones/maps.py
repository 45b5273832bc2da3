"""What a backbone gives for targets with a value for each pixel: features of places.

`with_maps` runs the network once and returns the features [batch dim] that `forward` returns, and
one map [batch map_width row column] for dense heads. A backbone of several stages joins them at the
side of the finest one that it offers, as the all-MLP decoder of "SegFormer" does, Enze Xie et al.,
NeurIPS 2021, https://arxiv.org/abs/2105.15203, whose layer a stage is left to the head.
"""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from taskgrove.errors import TaskgroveError


@runtime_checkable
class MapBackbone(Protocol):
    """A backbone that offers maps; `map_width` is 0 where this one has none."""

    map_width: int

    def with_maps(self, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Features [batch dim] and the map [batch map_width row column]."""
        ...


def map_width(trunk: Any) -> int:
    """Channels of the trunk's map, or the sentence that says it has none."""
    width = trunk.map_width if isinstance(trunk, MapBackbone) else 0
    if not width:
        raise TaskgroveError(
            f"the backbone {type(trunk).__name__} gives one vector a picture and no map, which"
            " segmentation, depth, normals, edges and saliency need: choose cnn, vit, pyramid, a"
            " transformer for pictures, or wrap(..., maps=)."
        )
    return width


def joined(stages: Sequence[Tensor]) -> Tensor:
    """Maps of several sides at the side of the first, one below the other: [batch dim row column].

    >>> joined([torch.ones(1, 2, 4, 4), torch.ones(1, 3, 2, 2)]).shape
    torch.Size([1, 5, 4, 4])
    """
    side = stages[0].shape[2:]
    larger = [interpolate(x, size=side, mode="bilinear", align_corners=False) for x in stages[1:]]
    return torch.cat([stages[0], *larger], 1)


def on_grid(hidden: Tensor, margin: float = 0.0) -> Tensor:
    """Tokens of a square grid, after tokens of no place, as a map: [batch dim row column].

    `margin` is the share of the picture's side that each border loses before the network sees it;
    the map is continued there by its border.

    >>> on_grid(torch.zeros(1, 1 + 16, 8), 1 / 6).shape
    torch.Size([1, 8, 6, 6])
    """
    side = int(hidden.shape[1] ** 0.5)
    grid = hidden[:, hidden.shape[1] - side * side :].transpose(1, 2).unflatten(2, (side, side))
    edge = round(side * margin / (1 - 2 * margin))
    return torch.nn.functional.pad(grid, (edge,) * 4, "replicate") if edge else grid
