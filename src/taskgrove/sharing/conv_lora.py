"""LoRA of convolutions: a low-rank change of each 2D convolution for each task.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022, arXiv 2106.09685, as the
authors' code does it for convolutions in PEFT's form: a convolution of few channels, then 1 x 1.

    y = W * x + s B_t (A_t * x)       s = alpha / r;  * the convolution with W's stride and padding

Symbols: x [entry in row column]; A [task rank in height width], as a convolution's start; B [task
out rank], zeros, so the start is the base model. Convolutions in groups are left out.
One convolution in groups serves all tasks of a batch. Cost a place: r (in k k + out) products.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

from taskgrove.errors import TaskgroveError
from taskgrove.sharing.choice import Parts, Point
from taskgrove.sharing.lora import key
from taskgrove.sharing.low_rank import of_groups, together
from taskgrove.sharing.route import Route
from taskgrove.sharing.stacked import grow


@dataclass(frozen=True)
class ConvLoRA:
    """Settings, a line each."""

    rank: int = 4
    alpha: float = 8.0

    about: ClassVar[str] = "a low-rank change of each convolution a task (Hu et al. 2022)"
    starts_at_base: ClassVar[bool] = True

    def sites(self, trunk: nn.Module) -> list[str]:
        """All 2D convolutions without groups."""
        return [n for n, m in trunk.named_modules() if isinstance(m, nn.Conv2d) and m.groups == 1]

    def parts(self, trunk: nn.Module, sites: list[str], tasks: int) -> "ConvLoRAParts":
        """Raises TaskgroveError for a rank below 1 or padding that is not with zeros."""
        if self.rank < 1:
            raise TaskgroveError(f"rank is {self.rank}: it must be 1 or more")
        return ConvLoRAParts(self, trunk, sites, tasks)


class ConvLoRAParts(Parts):
    """A and B of all tasks at all sites."""

    stacked: ClassVar[frozenset[str]] = frozenset({"A", "B"})

    def __init__(self, choice: ConvLoRA, trunk: nn.Module, sites: list[str], tasks: int) -> None:
        super().__init__()
        self.choice, self.A, self.B = choice, nn.ParameterDict(), nn.ParameterDict()
        self._convs: dict[str, nn.Conv2d] = {}
        for site in sites:
            conv = trunk.get_submodule(site)
            assert isinstance(conv, nn.Conv2d)
            if conv.padding_mode != "zeros":
                raise TaskgroveError(
                    f'"{site}" pads by "{conv.padding_mode}", expected "zeros": leave it out'
                )
            self._convs[site] = conv
            shape = choice.rank, conv.in_channels, *conv.kernel_size
            self.A[key(site)] = nn.Parameter(fresh(tasks, *shape))
            self.B[key(site)] = nn.Parameter(torch.zeros(tasks, conv.out_channels, choice.rank))

    def points(self) -> dict[str, Point]:
        """After each convolution: its change."""
        return {site: Point("after", partial(self._change, site)) for site in self._convs}

    def _change(self, site: str, x: Tensor, y: Tensor, route: Route) -> Tensor:
        conv = self._convs[site]
        A = of_groups(self.A[key(site)], route, x)  # [group rank in height width]
        B = of_groups(self.B[key(site)], route, x)  # [group out rank]
        groups = len(A)
        side = x.shape[-2:]
        wide = together(x.flatten(2), route)  # [group row*in place]
        wide = wide.view(groups, -1, x.shape[1], *side).transpose(0, 1).flatten(1, 2)
        how = {"stride": conv.stride, "padding": conv.padding, "dilation": conv.dilation}
        h = conv2d(wide, A.flatten(0, 1), groups=groups, **how)  # [row group*rank row column]
        h = h.unflatten(1, (groups, -1)).transpose(0, 1).flatten(3)  # [group row rank place]
        up = torch.matmul(B.unsqueeze(1), h) * (self.choice.alpha / self.choice.rank)
        return y + up.reshape_as(y).to(y.dtype)

    def add(self, tasks: int) -> None:
        for A in self.A.values():
            grow(A, fresh(tasks, *A.shape[1:]))
        for B in self.B.values():
            grow(B, torch.zeros(tasks, *B.shape[1:]))


def fresh(tasks: int, *shape: int) -> Tensor:
    """A's start: uniform as of a convolution."""
    edge = 1 / math.sqrt(math.prod(shape[1:]))
    return torch.empty(tasks, *shape).uniform_(-edge, edge)
