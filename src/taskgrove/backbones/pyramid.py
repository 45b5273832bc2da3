"""A small hierarchical vision transformer: four stages, attention in windows.

"Swin Transformer: Hierarchical Vision Transformer using Shifted Windows", Ze Liu et al., ICCV 2021,
https://arxiv.org/abs/2103.14030, for stages and windows; "MaxViT: Multi-Axis Vision Transformer",
Zhengzhong Tu et al., ECCV 2022, https://arxiv.org/abs/2204.01697, for what joins the windows.
    x_0 = patches W + positions                               side/4, channels widths_1
    x = x + attention(norm(x));  x = x + mlp(norm(x))         depths_b times in stage b
    x = W_b norm(four neighbours end to end)                  halves the side, to widths_(b+1)
    features = mean over places of norm(x)                    [batch dim], dim = widths_4
A stage's first block attends within windows of at most 8 x 8 neighbours, its second within as many
places spread evenly over the picture, and so on. The map joins the four stages at side/4.
Differs from Swin: spread places instead of shifted windows, so nothing is masked and any side that
32 divides fits; sine-cosine positions at the start instead of a bias for each distance.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, final

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention

from taskgrove.backbones.backbone import Raw
from taskgrove.backbones.maps import joined
from taskgrove.backbones.patches import sincos_2d
from taskgrove.backbones.pictures import centred, images
from taskgrove.errors import TaskgroveError

PATCH, WINDOW = 4, 8
Places = Float[Tensor, "batch row column dim"]


def window(side: int, most: int = WINDOW) -> int:
    """The largest side of equal windows.

    >>> [window(side) for side in (16, 12, 7, 2)]
    [8, 6, 7, 2]
    """
    return max(w for w in range(1, most + 1) if side % w == 0)


def split(
    x: Float[Tensor, "batch row column dim"], spread: bool
) -> Float[Tensor, "group token dim"]:
    """Places in windows of neighbours, or spread evenly; the groups of a picture side by side."""
    w = window(x.shape[1])
    many = x.shape[1] // w
    if spread:
        x = x.unflatten(2, (w, many)).unflatten(1, (w, many))  # [batch w many w many dim]
        return x.permute(0, 2, 4, 1, 3, 5).reshape(-1, w * w, x.shape[-1])
    x = x.unflatten(2, (many, w)).unflatten(1, (many, w))  # [batch many w many w dim]
    return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, w * w, x.shape[-1])


def unsplit(x: Float[Tensor, "group token dim"], side: int, spread: bool) -> Places:
    """The inverse of `split`."""
    w = window(side)
    many = side // w
    x = x.reshape(-1, many, many, w, w, x.shape[-1])
    x = x.permute(0, 3, 1, 4, 2, 5) if spread else x.permute(0, 1, 3, 2, 4, 5)
    return x.reshape(-1, side, side, x.shape[-1])


@final
class Block(nn.Module):
    """One pre-norm layer; attention within the groups of `split`."""

    def __init__(self, width: int, heads: int, spread: bool):
        super().__init__()
        self.heads, self.spread = heads, spread
        self.norm_attention = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm_mlp = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def attention(self, x: Places) -> Places:
        qkv = split(self.qkv(x), self.spread)  # [group token 3dim]
        q, k, v = qkv.unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return self.out(unsplit(mixed, x.shape[1], self.spread))

    def forward(self, x: Places) -> Places:
        x = x + self.attention(self.norm_attention(x))
        return x + self.down(gelu(self.up(self.norm_mlp(x))))


@final
class Merge(nn.Module):
    """Four neighbours become one place."""

    def __init__(self, width: int, wider: int):
        super().__init__()
        self.norm = nn.LayerNorm(4 * width)
        self.reduce = nn.Linear(4 * width, wider)

    def forward(self, x: Places) -> Float[Tensor, "batch half_row half_column wider"]:
        x = x.unflatten(2, (-1, 2)).unflatten(1, (-1, 2))  # [batch row 2 column 2 dim]
        return self.reduce(self.norm(x.transpose(2, 3).flatten(3)))


@final
class Pyramid(nn.Module):
    def __init__(
        self,
        widths: Sequence[int] = (24, 48, 96, 192),
        depths: Sequence[int] = (1, 1, 2, 1),
        head: int = 24,  # channels of an attention head
    ):
        super().__init__()
        if len(widths) != len(depths) or any(w % head or w % 4 for w in widths):
            raise TaskgroveError(
                f"a pyramid needs a depth for each width, and widths that are multiples of {head}"
                f" (a head's channels) and of 4, not {list(widths)} and {list(depths)}."
            )
        self.width, self.map_width, self.reads = widths[-1], sum(widths), frozenset({"image"})
        self.widths, self.depths, self.head = tuple(widths), tuple(depths), head
        self.patches = nn.Conv2d(3, widths[0], PATCH, stride=PATCH)
        self.stages = nn.ModuleList(
            nn.ModuleList(Block(width, width // head, n % 2 == 1) for n in range(depth))
            for width, depth in zip(widths, depths, strict=True)
        )
        self.merges = nn.ModuleList(Merge(a, b) for a, b in pairwise(widths))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for width in widths)

    def prepare(self, raw: Raw) -> dict[str, Tensor]:
        multiple = PATCH * 2 ** (len(self.widths) - 1)
        return {"image": centred(images(raw, "pyramid", multiple, multiple=multiple))}

    def _stages(self, inputs: dict[str, Tensor]) -> list[Tensor]:
        """Each stage's places, not yet normed."""
        x = self.patches(inputs["image"]).permute(0, 2, 3, 1)  # [batch row column dim]
        x = x + sincos_2d(x.shape[1], x.shape[3]).to(x).view(x.shape[1:])
        found = []
        for n, blocks in enumerate(self.stages):
            x = self.merges[n - 1](x) if n else x
            for block in blocks:  # pyright: ignore[reportGeneralTypeIssues]
                x = block(x)
            found.append(x)
        return found

    def forward(self, inputs: dict[str, Tensor]) -> Float[Tensor, "batch dim"]:
        return self.norms[-1](self._stages(inputs)[-1]).mean((1, 2))

    def with_maps(self, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        stages = self._stages(inputs)
        normed = [norm(x) for norm, x in zip(self.norms, stages, strict=True)]
        return normed[-1].mean((1, 2)), joined([x.permute(0, 3, 1, 2) for x in normed])

    def config(self) -> dict[str, Any]:
        sizes = {"widths": list(self.widths), "depths": list(self.depths), "head": self.head}
        return {"class": "pyramid", "arguments": sizes}
