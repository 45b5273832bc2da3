"""A dense head: from a trunk's map to a value for each pixel.

"SegFormer", Enze Xie et al., NeurIPS 2021, https://arxiv.org/abs/2105.15203, for the form: a layer
a place, then as many outputs a pixel. Differs: one 3x3 convolution between, which thin edges need.
    z = relu(W_2 * relu(W_1 m + b_1) + b_2);  output = up(W_3 z + b_3), which is W_3 up(z) + b_3
m [row dim row' column'] the trunk's map, W_2 3x3, `up` bilinear; output [row out size size].
"""

from typing import final

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import interpolate, relu


@final
class DenseHead(nn.Module):
    def __init__(self, width: int, outputs: int, size: int, hidden: int = 64):
        super().__init__()
        self.size = size
        self.reduce = nn.Conv2d(width, hidden, 1)
        self.mix = nn.Conv2d(hidden, hidden, 3, padding=1)
        self.out = nn.Conv2d(hidden, outputs, 1)

    def forward(self, m: Float[Tensor, "row dim h w"]) -> Float[Tensor, "row out size size"]:
        z = relu(self.mix(relu(self.reduce(m))))
        size = (self.size, self.size)
        return interpolate(self.out(z), size=size, mode="bilinear", align_corners=False)
