"""A small convolutional network for small pictures: the reference that runs anywhere.

Four 3x3 convolutions, each halving the side, then the mean over places:
    x_l = relu(norm(W_l * x_(l-1) + b_l)), stride 2,  channels 3 -> 24 -> 48 -> 96 -> width
    features = mean over places of x_4                     [batch dim]
The widest layers see 4 x 4 places of a 32 x 32 picture, and the first layer, whose maps are the
largest, has no norm, so a step is cheap without an accelerator. Group norm (Yuxin Wu, Kaiming He,
2018, https://arxiv.org/abs/1803.08494) keeps examples, and so tasks, apart from each other: no
statistic crosses the batch.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, final

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import relu

from taskgrove.backbones.backbone import Raw
from taskgrove.backbones.maps import joined
from taskgrove.backbones.pictures import centred, images
from taskgrove.errors import TaskgroveError


@final
class Cnn(nn.Module):
    def __init__(self, width: int = 128, channels: Sequence[int] = (24, 48, 96), groups: int = 8):
        super().__init__()
        sizes = (3, *channels, width)
        if any(size % groups for size in sizes[1:]):
            raise TaskgroveError(
                f"the channels and the width of a cnn must be multiples of {groups} (its groups),"
                f" not {list(sizes[1:])}."
            )
        self.width, self.reads = width, frozenset({"image"})
        self.channels, self.groups = tuple(channels), groups
        self.map_width = sum(sizes[2:])
        self.convolutions = nn.ModuleList(
            nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in pairwise(sizes)
        )
        norms = [nn.GroupNorm(groups, size) for size in sizes[2:]]
        self.norms = nn.ModuleList([nn.Identity(), *norms])

    def prepare(self, raw: Raw) -> dict[str, Tensor]:
        return {"image": centred(images(raw, "cnn", smallest=8))}

    def _layers(self, inputs: dict[str, Tensor]) -> list[Tensor]:
        x, found = inputs["image"], []  # [batch channel row column]
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = relu(norm(convolution(x)))
            found.append(x)
        return found

    def forward(self, inputs: dict[str, Tensor]) -> Float[Tensor, "batch dim"]:
        return self._layers(inputs)[-1].mean((2, 3))

    def with_maps(self, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The map joins all layers but the first, whose side is half the picture's."""
        layers = self._layers(inputs)
        return layers[-1].mean((2, 3)), joined(layers[1:])

    def config(self) -> dict[str, Any]:
        arguments = {"width": self.width, "channels": list(self.channels), "groups": self.groups}
        return {"class": "cnn", "arguments": arguments}
