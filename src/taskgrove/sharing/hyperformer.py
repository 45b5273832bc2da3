"""HyperFormer and Polyhistor: adapters from embeddings of the task and of the site.

HyperFormer: Mahabadi, Ruder, Dehghani, Henderson, "Parameter-efficient Multi-task Fine-tuning for
Transformers via Shared Hypernetworks", ACL 2021, arXiv 2106.04489. Polyhistor: Liu, Ma, Tian, He,
Kira, "Polyhistor: Parameter-Efficient Multi-Task Adaptation for Dense Vision Tasks", NeurIPS 2022,
arXiv 2210.03265.

    z = norm(P [e_t; e_l])
    HyperFormer       W_{t,l} = reshape(H z)
    Polyhistor        W_{t,l} = reshape(H_a z) reshape(H_b z)         see hypernetwork

Symbols: e_t [task k], e_l [site k] embeddings; P [k 2k]; H one a width, shared by its sites.
Differs from the papers: adapters have no biases and no norm of their own; how Polyhistor shares
across layers is not published as code: here as HyperFormer does.
Cost: once a batch, present tasks x sites x k low dim products, or k (low + dim) rank in factors; of
parameters 2 k low dim, or 2 k (low + dim) rank, a width, and k a task.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from taskgrove.sharing.choice import contractions
from taskgrove.sharing.hypernetwork import GeneratedAdapters, Generator, Made, Shapes, shapes_of


@dataclass(frozen=True)
class HyperFormer:
    """Settings, a line each."""

    reduction: int = 8
    embedding: int = 32  # k

    about: ClassVar[str] = "adapters generated from task embeddings (Mahabadi et al. 2021)"
    starts_at_base: ClassVar[bool] = True

    def sites(self, trunk: nn.Module) -> list[str]:
        """The ends of feed-forward blocks, as of adapters."""
        return contractions(trunk)

    def parts(self, trunk: nn.Module, sites: list[str], tasks: int) -> GeneratedAdapters:
        """A whole generator a width."""
        net = BySite(shapes_of(trunk, sites, self.reduction), self.embedding, None)
        return GeneratedAdapters(sites, tasks, self.embedding, net)


@dataclass(frozen=True)
class Polyhistor:
    """Settings, a line each."""

    reduction: int = 8
    embedding: int = 32  # k
    rank: int = 4

    about: ClassVar[str] = "adapters generated in factors (Polyhistor, Liu et al. 2022)"
    starts_at_base: ClassVar[bool] = True

    def sites(self, trunk: nn.Module) -> list[str]:
        """The ends of feed-forward blocks, as of adapters."""
        return contractions(trunk)

    def parts(self, trunk: nn.Module, sites: list[str], tasks: int) -> GeneratedAdapters:
        """A generator a width, in two factors."""
        net = BySite(shapes_of(trunk, sites, self.reduction), self.embedding, self.rank)
        return GeneratedAdapters(sites, tasks, self.embedding, net)


class BySite(nn.Module):
    """Generators by width, and an embedding of each site."""

    def __init__(self, shapes: Shapes, k: int, rank: int | None) -> None:
        super().__init__()
        self.width = {site: str(dim) for site, (_, dim) in shapes.items()}
        self.site = nn.Parameter(torch.randn(len(shapes), k))
        self.P = nn.Parameter(torch.randn(k, 2 * k) / (2 * k) ** 0.5)
        sizes = {str(dim): (low, dim) for low, dim in shapes.values()}
        self.D, self.U = (
            nn.ModuleDict({w: Generator(k, *size, rank, zero=zero) for w, size in sizes.items()})
            for zero in (False, True)
        )

    def forward(self, e: Tensor) -> Made:
        made = {}
        for n, (site, width) in enumerate(self.width.items()):
            both = torch.cat([e, self.site[n].expand(len(e), -1)], 1)  # [present 2k]
            z = layer_norm(both @ self.P.T, e.shape[1:])  # [present k]
            made[site] = self.D[width](z)[:, 0], self.U[width](z)[:, 0]
        return made
