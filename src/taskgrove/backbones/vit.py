"""A small vision transformer: the reference for whatever acts on tokens.

"An Image is Worth 16x16 Words", Alexey Dosovitskiy et al., 2021, https://arxiv.org/abs/2010.11929,
with the simplifications of "Better plain ViT baselines for ImageNet-1k", Lucas Beyer, Xiaohua
Zhai, Alexander Kolesnikov, 2022, https://arxiv.org/abs/2205.01580: sine-cosine positions, so that
any size fits without new parameters, and the mean over tokens instead of a class token.
    x_0 = patches W + positions                       [batch token dim]
    x   = x + attention(norm(x));  x = x + mlp(norm(x))     `depth` times
    features = mean over tokens of norm(x)            [batch dim]
"""

from typing import Any, final

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention

from taskgrove.backbones.backbone import Raw
from taskgrove.backbones.maps import on_grid
from taskgrove.backbones.patches import sincos_2d
from taskgrove.backbones.pictures import centred, images
from taskgrove.errors import TaskgroveError


@final
class Block(nn.Module):
    """One pre-norm transformer layer."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm_attention = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm_mlp = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def attention(self, x: Float[Tensor, "batch token dim"]) -> Float[Tensor, "batch token dim"]:
        qkv = self.qkv(x).unflatten(2, (3, self.heads, -1))  # [batch token 3 head dim]
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each [batch head token dim]
        mixed = scaled_dot_product_attention(q, k, v)
        return self.out(mixed.transpose(1, 2).flatten(2))  # [batch token dim]

    def forward(self, x: Float[Tensor, "batch token dim"]) -> Float[Tensor, "batch token dim"]:
        x = x + self.attention(self.norm_attention(x))
        return x + self.down(gelu(self.up(self.norm_mlp(x))))


@final
class Vit(nn.Module):
    def __init__(self, width: int = 128, depth: int = 4, heads: int = 4, patch: int = 4):
        super().__init__()
        if width % heads or width % 4:
            raise TaskgroveError(
                f"the width of a vit must be a multiple of its {heads} heads and of 4, not {width}."
            )
        self.width, self.map_width, self.reads = width, width, frozenset({"image"})
        self.depth, self.heads, self.patch = depth, heads, patch
        self.patches = nn.Conv2d(3, width, patch, stride=patch)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def prepare(self, raw: Raw) -> dict[str, Tensor]:
        return {"image": centred(images(raw, "vit", self.patch, multiple=self.patch))}

    def _tokens(self, inputs: dict[str, Tensor]) -> Float[Tensor, "batch token dim"]:
        x = self.patches(inputs["image"])  # [batch dim row column]
        positions = sincos_2d(x.shape[2], self.width).to(x)
        x = x.flatten(2).transpose(1, 2) + positions  # [batch token dim]
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def forward(self, inputs: dict[str, Tensor]) -> Float[Tensor, "batch dim"]:
        return self._tokens(inputs).mean(1)

    def with_maps(self, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The map is the grid of the last tokens."""
        tokens = self._tokens(inputs)
        return tokens.mean(1), on_grid(tokens)

    def config(self) -> dict[str, Any]:
        names = ("width", "depth", "heads", "patch")
        return {"class": "vit", "arguments": {name: getattr(self, name) for name in names}}
