"""Polyhistor-Lite: one generated template a task, scaled to each layer by a shared small kernel.

Liu, Ma, Tian, He, Kira, "Polyhistor: Parameter-Efficient Multi-Task Adaptation for Dense Vision
Tasks", NeurIPS 2022, arXiv 2210.03265.

    T_t^j = reshape(H_a norm(e_t)) reshape(H_b norm(e_t))      of the smallest width
    W_{t,l} = sum_j S_l^j (x) T_t^j                            (x) the Kronecker product

Symbols: T [task term low dim]; S [term rows columns] of a layer, the same for all tasks, so that W
is [rows*low columns*dim], whatever the stage's width; D and U have templates and kernels of their
own. Differs from the paper: S starts near a constant that keeps a linear layer's variance (its own
start is not published).
Cost: of parameters 2 k (low + dim) rank terms, and 2 terms rows columns a site; k a task.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from taskgrove.errors import TaskgroveError
from taskgrove.sharing.choice import contractions
from taskgrove.sharing.hypernetwork import GeneratedAdapters, Generator, Made, Shapes, shapes_of
from taskgrove.sharing.lora import key

NEAR = 0.1  # relative deviation of S at the start


@dataclass(frozen=True)
class PolyhistorLite:
    """Settings, a line each."""

    reduction: int = 8
    embedding: int = 32  # k
    rank: int = 4
    terms: int = 1  # templates that are scaled and summed

    about: ClassVar[str] = "one generated template, scaled to each layer (Polyhistor-Lite, 2022)"
    starts_at_base: ClassVar[bool] = True

    def sites(self, trunk: nn.Module) -> list[str]:
        """The ends of feed-forward blocks, as of adapters."""
        return contractions(trunk)

    def parts(self, trunk: nn.Module, sites: list[str], tasks: int) -> GeneratedAdapters:
        """Raises TaskgroveError where a width is no multiple of the smallest."""
        net = Scaled(shapes_of(trunk, sites, self.reduction), self)
        return GeneratedAdapters(sites, tasks, self.embedding, net)


class Scaled(nn.Module):
    """Generators of the smallest width, and two kernels for each site."""

    def __init__(self, shapes: Shapes, choice: PolyhistorLite) -> None:
        super().__init__()
        low, dim = min(shapes.values(), key=lambda shape: shape[1])
        k, rank, terms = choice.embedding, choice.rank, choice.terms
        self.D, self.U = (
            Generator(k, low, dim, rank, count=terms, zero=zero) for zero in (False, True)
        )
        self.sites = list(shapes)
        self.S_D, self.S_U = nn.ParameterDict(), nn.ParameterDict()
        for site, (wide_low, wide) in shapes.items():
            columns = times(site, wide, dim)
            size = terms, times(site, wide_low, low), columns
            middle = (terms * columns) ** -0.5
            for kernels in (self.S_D, self.S_U):
                kernels[key(site)] = nn.Parameter(middle * (1 + NEAR * torch.randn(size)))

    def forward(self, e: Tensor) -> Made:
        z = layer_norm(e, e.shape[1:])
        D, U = self.D(z), self.U(z)  # [present term low dim]
        return {
            site: (scaled_up(D, self.S_D[key(site)]), scaled_up(U, self.S_U[key(site)]))
            for site in self.sites
        }


def scaled_up(
    T: Float[Tensor, "task term low high"], S: Float[Tensor, "term row column"]
) -> Float[Tensor, "task out dim"]:
    """W of every task at a site. Cost: term x out x dim products a task."""
    W = torch.einsum("jab,tjcd->tacbd", S, T)  # [task row low column high]
    return W.flatten(3, 4).flatten(1, 2)


def times(site: str, width: int, smallest: int) -> int:
    """How many times a width holds the smallest; raises TaskgroveError where it is no whole one."""
    if width % smallest:
        raise TaskgroveError(
            f'"{site}" is {width} wide, which is no multiple of the smallest width {smallest}:'
            " leave it out by a pattern, or choose polyhistor"
        )
    return width // smallest
