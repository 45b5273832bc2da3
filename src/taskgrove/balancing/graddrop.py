"""GradDrop: for each element pick a sign.

Just Pick a Sign: Optimizing Deep Multitask Models with Gradient Sign Dropout, Chen, Ngiam, Huang,
Luong, Kretzschmar, Chai, Anguelov, NeurIPS 2020, arXiv 2010.06808, algorithm 1.

Where tasks pull an element of the gradient to both sides, their mean is a compromise that suits
none. GradDrop draws a side, the likelier the more of the magnitude stands on it, and keeps only the
tasks of that side: the mean gradient in expectation, with a noise that ends where tasks agree.

    P = 1/2 (1 + sum_t G_t / sum_t |G_t|)                    sign purity; 0 / 0 needs no value
    M_t = 1[P > U] 1[G_t > 0] + 1[P <= U] 1[G_t < 0]         U uniform in [0, 1)
    d = sum_t (l_t + (1 - l_t) M_t) G_t

Symbols: G_t = share_t g_t, rows of [task shared]; P, U, d [shared]; M [task shared]; l [task] in
[0, 1], the leak: 0 drops a task wholly, 1 never. U comes from (seed, step) and the CPU's generator:
alike on each process, and a resumed run repeats it. A row of zeros changes nothing.
Cost: K passes over the rows in pieces, P random numbers drawn on the CPU; no second K x P copy.
Use it when tasks conflict element by element, and some noise in the steps does no harm.
Tuned sums do as well when tasks mostly agree (then GradDrop is the mean), or at equal tuning: in
a later comparison (Kurin et al. 2022) it is not ahead of them.
Differs from the paper: rows are gradients of shared parameters or features over the whole batch,
where the paper masks a layer's activations and multiplies by their sign to sum over the batch;
tasks weigh by their share, so d is a mean, not a sum; f(P) = P.
"""

from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from taskgrove.balancing.choice import Aggregator, Choice, Setup, Statistic

PIECE = 2**18  # columns at a time


def graddrop(
    G: Float[Tensor, "task shared"],
    share: Float64[Tensor, " task"],
    generator: torch.Generator,
    leak: float | Float[Tensor, " task"] = 0.0,
) -> Float[Tensor, " shared"]:
    """d in the type of G, which holds the plain rows g_t; half precision is widened by piece."""
    wide = G.new_zeros(()).to(torch.promote_types(G.dtype, torch.float32))
    column = share.to(wide)[:, None]  # [task 1]
    l = torch.as_tensor(leak).to(wide).expand(len(G))[:, None]  # noqa: E741 (the paper's l)
    d = torch.empty_like(G[0])
    for start in range(0, G.shape[1], PIECE):
        piece = G[:, start : start + PIECE].to(wide) * column  # [task piece]
        U = torch.rand(piece.shape[1], generator=generator).to(wide)
        d[start : start + PIECE] = _drop(piece, U, l)
    return d


def _drop(G: Tensor, U: Tensor, l: Tensor) -> Tensor:  # noqa: E741
    positive, negative = G.clamp(min=0), G.clamp(max=0)
    # 1/2 (1 + sum G / sum |G|), written so that P is 1 exactly where no task pulls down
    P = positive.sum(0) / (positive.sum(0) - negative.sum(0))  # NaN where all are 0: so is d
    kept = torch.where(P > U, positive, negative)  # M G
    return (l * G + (1 - l) * kept).sum(0)


def drop(leak: float | Float[Tensor, " task"] = 0.0) -> Callable[[Setup], Aggregator]:
    """`make` of GradDrop with a leak."""

    def aggregate(seed: int, statistic: Statistic, rows: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + statistic.step)
        return graddrop(rows, statistic.share, generator, leak)

    return lambda setup: partial(aggregate, setup.seed)


CHOICE = Choice(
    about="GradDrop: for each element pick a sign, at random (Chen et al. 2020)",
    make=drop(),
    needs="rows",
    invariants=frozenset({"permutation", "scale", "one task", "absent task"}),
)
