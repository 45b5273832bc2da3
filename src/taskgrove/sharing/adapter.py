"""Adapter: a small bottleneck net for each task at the end of each feed-forward block.

Houlsby et al., "Parameter-Efficient Transfer Learning for NLP", ICML 2019, arXiv 1902.00751; one a
layer, after the feed-forward block, as in Pfeiffer et al., "AdapterFusion", EACL 2021, arXiv
2005.00247.

    h = n(f + x);   a = U_t^T relu(D_t h + c_t) + e_t;   the block gives n(a + f + x)     post-norm
    a = U_t^T relu(D_t f + c_t) + e_t;   f + a goes on where f did                           others

Symbols: x [entry ... dim] what the block adds its dense output f to; n its own norm, frozen, used
twice; D [task bottleneck dim], c [task bottleneck]; U [task bottleneck dim] and e [task dim],
zeros, so the start is the base model; bottleneck = dim / `reduction`.
A block is post-norm where its last linear layer has one sibling, a LayerNorm as wide as its output
(BERT, RoBERTa, ELECTRA, MPNet): there it is Pfeiffer's adapter exactly. Differs from the papers in
all other blocks, where the residual is out of reach: the net reads f.
Cost a token and site: 2 bottleneck dim products, and in post-norm blocks a norm.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from taskgrove.errors import TaskgroveError
from taskgrove.sharing.choice import Parts, Point, contractions, sides, sides_at
from taskgrove.sharing.lora import key
from taskgrove.sharing.low_rank import down, of_groups, up_
from taskgrove.sharing.route import Route
from taskgrove.sharing.stacked import grow

Weights = tuple[nn.ParameterDict, nn.ParameterDict, nn.ParameterDict, nn.ParameterDict]
Change = Callable[[str, Tensor, Tensor, Route], Tensor]  # (site, y, what is read, route) -> y


@dataclass(frozen=True)
class Adapter:
    """Settings, a line each."""

    reduction: int = 16  # how many times narrower than the layer
    bias: bool = True  # c and e

    about: ClassVar[str] = "a bottleneck net a task after each block (Houlsby et al. 2019)"
    starts_at_base: ClassVar[bool] = True

    def sites(self, trunk: nn.Module) -> list[str]:
        """The ends of feed-forward blocks: linear layers with fewer outputs than inputs."""
        return contractions(trunk)

    def parts(self, trunk: nn.Module, sites: list[str], tasks: int) -> "AdapterParts":
        """Raises TaskgroveError where nothing would be left of the bottleneck."""
        return AdapterParts(self, trunk, sites, tasks)


class AdapterParts(Parts):
    """D, c, U and e of all tasks at all sites."""

    stacked: ClassVar[frozenset[str]] = frozenset({"D", "c", "U", "e"})

    def __init__(self, choice: Adapter, trunk: nn.Module, sites: list[str], tasks: int) -> None:
        super().__init__()
        self.choice, self.names = choice, sites
        self._norms = norms(trunk, sites)
        self.D, self.c, self.U, self.e = bottlenecks(trunk, sites, tasks, choice.reduction)
        if not choice.bias:
            self.c, self.e = nn.ParameterDict(), nn.ParameterDict()

    def points(self) -> dict[str, Point]:
        """At each site: what the adapter adds."""
        return placed(self.names, self._norms, self._change)

    def _change(self, site: str, y: Tensor, h: Tensor, route: Route) -> Tensor:
        name = key(site)
        c, e = (self.c[name], self.e[name]) if self.choice.bias else (None, None)
        return adapted(y, self.D[name], c, self.U[name], e, route, read=h)

    def add(self, tasks: int) -> None:
        for name in self.D:
            grow(self.D[name], fresh(tasks, *self.D[name].shape[1:]))
            grow(self.U[name], torch.zeros(tasks, *self.U[name].shape[1:]))
        for biases in (self.c, self.e):
            for bias in biases.values():
                grow(bias, torch.zeros(tasks, *bias.shape[1:]))


def bottlenecks(trunk: nn.Module, sites: list[str], count: int, reduction: int) -> Weights:
    """D, c, U, e by site, `count` stacked, as they start."""
    D, c, U, e = (nn.ParameterDict() for _ in range(4))
    for site in sites:
        dim, name = sides_at(trunk, site)[0], key(site)
        width = narrowed(site, dim, reduction)
        D[name] = nn.Parameter(fresh(count, width, dim))
        c[name] = nn.Parameter(torch.zeros(count, width))
        U[name] = nn.Parameter(torch.zeros(count, width, dim))
        e[name] = nn.Parameter(torch.zeros(count, dim))
    return D, c, U, e


def take(weights: Weights, adapters: AdapterParts) -> None:
    """Copies trained adapters, whose tasks become sources.

    Raises TaskgroveError where they stood at other sites, or are of other sizes.
    """
    own = adapters.D, adapters.c, adapters.U, adapters.e
    to = [(w[n], name, n) for w, name in zip(weights, "DcUe", strict=True) for n in w]
    for w, name, n in to:
        trained = own["DcUe".index(name)]
        if n not in trained or trained[n].shape != w.shape:
            got = f"{list(trained[n].shape)}" if n in trained else "nothing"
            raise TaskgroveError(
                f'the trained adapters have {got} as {name} at "{n.replace("/", ".")}", expected'
                f" {list(w.shape)}: train them on this trunk, with these sites and this reduction"
            )
    with torch.no_grad():
        for w, name, n in to:
            w.copy_(own["DcUe".index(name)][n])


def norms(trunk: nn.Module, sites: list[str]) -> dict[str, tuple[str, nn.LayerNorm]]:
    """The norm behind each site that ends a post-norm block, by name and as a module."""
    found = {}
    for site in sites:
        parent, _, own = site.rpartition(".")
        inner = dict(trunk.get_submodule(parent).named_children())
        linears = [name for name, module in inner.items() if sides(module) is not None]
        normed = [(n, m) for n, m in inner.items() if isinstance(m, nn.LayerNorm)]
        wide = (sides_at(trunk, site)[0],)
        if linears == [own] and len(normed) == 1 and normed[0][1].normalized_shape == wide:
            name, norm = normed[0]
            found[site] = f"{parent}.{name}" if parent else name, norm
    return found


def placed(
    sites: list[str], norms: Mapping[str, tuple[str, nn.LayerNorm]], change: Change
) -> dict[str, Point]:
    """Points at norms, or at the sites themselves where there is none."""
    points = {}
    for site in sites:
        if site in norms:
            name, norm = norms[site]
            points[name] = Point("before", partial(_before, change, site, norm))
        else:
            points[site] = Point("after", partial(_after, change, site))
    return points


def _before(change: Change, site: str, norm: nn.LayerNorm, y: Tensor, route: Route) -> Tensor:
    return change(site, y, norm.forward(y), route)  # y = f + x


def _after(change: Change, site: str, x: Tensor, f: Tensor, route: Route) -> Tensor:  # noqa: ARG001
    return change(site, f, f, route)


def adapted(
    y: Tensor,
    D: Tensor,
    c: Tensor | None,
    U: Tensor,
    e: Tensor | None,
    route: Route,
    act: Callable[[Tensor], Tensor] = torch.relu,
    read: Tensor | None = None,
) -> Tensor:
    """y + U^T act(D h + c) + e with h = `read`, else y; in place where nothing forbids it."""
    alone = read is None or read is y
    z = down(y if read is None else read, D, route)  # [group row bottleneck]
    if c is not None:
        z = z + of_groups(c, route, y).unsqueeze(1)
    if e is not None:
        own = of_groups(e, route, y).unsqueeze(1)  # [group 1 dim]
        y = (y.reshape(len(own), -1, y.shape[-1]) + own).view(y.shape)
    elif torch.is_grad_enabled() or not alone:
        y = y.clone()  # down's backward, or the norm, reads it
    return up_(y, act(z), U, route)


def narrowed(site: str, dim: int, reduction: int) -> int:
    """The bottleneck's width."""
    if reduction < 1 or dim // reduction < 1:
        raise TaskgroveError(
            f'reduction {reduction} leaves nothing of "{site}", {dim} wide: give 1 to {dim}'
        )
    return dim // reduction


def fresh(tasks: int, width: int, dim: int) -> Tensor:
    """D's start: uniform as of a linear layer."""
    edge = 1 / math.sqrt(dim)
    return torch.empty(tasks, width, dim).uniform_(-edge, edge)
