"""by_rows: the way through a step for methods that choose element by element.

Rows G [task shared] of a group's parameters, or of the signals at the features, go to the
aggregator as one matrix, without shares and without a loss scaler's factor; its d is scaled back.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from taskgrove.balancing import apply
from taskgrove.balancing.batch import Balanced, Batch, Bound
from taskgrove.balancing.choice import Aggregator
from taskgrove.balancing.gradients import Held
from taskgrove.balancing.joined import reduce_all
from taskgrove.balancing.measured import Measured
from taskgrove.balancing.weigh import aggregate


@torch.no_grad()
def by_rows(
    bound: Bound,
    batch: Batch,
    measured: Measured,
    shared: Mapping[nn.Parameter, int],
    losses: Tensor,
) -> Balanced:
    """Each group's rows G go to the aggregator as one matrix."""
    if bound.level == "features" and measured.again:
        return _by_signals(bound, batch, measured, losses)
    count, fallback = len(batch.tasks), False
    for number, weighting in enumerate(bound.weightings):
        group = [p for p, g in shared.items() if g == number]
        rows = [measured.rows.get(p, Held()) for p in group]
        whole = [r.whole(p, count) for r, p in zip(rows, group, strict=True) if isinstance(r, Held)]
        G = torch.cat([part.reshape(count, -1) for part in whole], 1)  # [task shared]
        del whole
        d, fell = _direction(batch, weighting, G, losses)
        fallback |= fell
        parts = d.split([p.numel() for p in group])
        apply.add({p: part.view_as(p) for p, part in zip(group, parts, strict=True)})
    apply.add(measured.plain)
    reduce_all(bound, batch, shared_too=False)
    return Balanced(batch.tasks, batch.share, batch.share, losses, None, fallback)


@torch.no_grad()
def _by_signals(bound: Bound, batch: Batch, measured: Measured, losses: Tensor) -> Balanced:
    """The same with signals at the features as rows."""
    count, parts = len(batch.tasks), [entered.flat() for entered, _ in measured.again]
    G = parts[0].new_zeros(count, sum(part.shape[1] for part in parts))  # [task feature]
    starts = torch.tensor([0, *(part.shape[1] for part in parts)]).cumsum(0).tolist()
    for (entered, _), part, start in zip(measured.again, parts, starts, strict=False):
        G[entered.tasks, start : start + part.shape[1]] = part
    d, fallback = _direction(batch, bound.weightings[0], G, losses)
    sizes = [part.shape[1] for part in parts]
    apply.add(measured.plain)
    for (entered, inputs), piece in zip(measured.again, d.split(sizes), strict=True):
        apply.add(dict(zip(inputs, entered.spread(inputs, piece), strict=True)))
    reduce_all(bound, batch)
    return Balanced(batch.tasks, batch.share, batch.share, losses, None, fallback)


def _direction(
    batch: Batch, aggregator: Aggregator, G: Tensor, losses: Tensor
) -> tuple[Tensor, bool]:
    """d from rows r_t = factor share_t g_t, which are overwritten; whether it is a fall-back."""
    G /= batch.factor * batch.share.to(G)[:, None]
    finite = losses if bool(G.isfinite().all()) else losses * torch.nan
    d, _ = aggregate(aggregator, batch.statistic(finite), G)
    if d is None:
        return batch.factor * (batch.share.to(G) @ G), True
    return d * batch.factor, False
