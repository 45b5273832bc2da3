"""Pictures as tokens: fixed positions on a square grid.

"Attention Is All You Need", Ashish Vaswani et al., 2017, https://arxiv.org/abs/1706.03762, section
3.5, once for the row y and once for the column x, each with a quarter of the channels as sines and
a quarter as cosines:  angle_i(p) = p / 10000^(i / (dim/4)).
"""

import torch
from jaxtyping import Float
from torch import Tensor


def sincos_2d(side: int, dim: int) -> Float[Tensor, "token dim"]:
    """Positions of side x side tokens, row by row.

    >>> sincos_2d(2, 4).shape
    torch.Size([4, 4])
    """
    frequency = 10000.0 ** -(torch.arange(dim // 4) / (dim // 4))
    angle = torch.arange(side)[:, None] * frequency  # [side dim/4]
    x, y = angle.repeat(side, 1), angle.repeat_interleave(side, 0)  # each [token dim/4]
    return torch.cat([x.sin(), x.cos(), y.sin(), y.cos()], dim=1)
