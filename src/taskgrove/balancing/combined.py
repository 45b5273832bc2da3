"""combined: the answer of a balancing method to rows that are there, a dictionary a task.

Where the rows are not gradients of this moment's losses (the flat parts of `task_sam`) there is no
graph to send weights through: d = sum_t w_t r_t is added up. Symbols: rows r_t, d [shared].
Cost: the Gramian of the rows, or one copy of them for methods that choose element by element.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float64
from torch import Tensor, nn

from taskgrove.balancing.balancer import Balancer
from taskgrove.balancing.choice import Statistic
from taskgrove.balancing.climb import Row
from taskgrove.balancing.gradients import CHUNK, Held, inner
from taskgrove.balancing.weigh import Weighed, aggregate, weigh


def combined(
    balancer: Balancer, seen: Statistic, rows: Sequence[Row]
) -> tuple[Row, Weighed, Statistic]:
    """d, how it was weighed (a fall-back where something is not finite), and what was seen."""
    (weighting,), needs, count = balancer.weightings, balancer.choice.needs, len(rows)
    held = {p: Held() for row in rows for p in row}
    for place, row in enumerate(rows):
        for parameter, gradient in row.items():
            held[parameter].blocks.append(([place], gradient[None]))
    if needs == "rows" and held:
        order = balancer.groups[0] if balancer.groups else list(held)
        whole = [held.get(p, Held()).whole(p, count).reshape(count, -1) for p in order]
        G = torch.cat(whole, 1)  # [task shared]
        finite = seen.losses if bool(G.isfinite().all()) else seen.losses * torch.nan
        d, weighed = aggregate(weighting, replace(seen, losses=finite), G)
        parts = (seen.share.to(G) @ G if d is None else d).split([p.numel() for p in order])
        return {p: part.view_as(p) for p, part in zip(order, parts, strict=True)}, weighed, seen
    if needs == "gramian":
        seen = replace(seen, gramian=_gramian(held, rows))
    weighed = weigh(weighting, seen)
    return {p: h.combined(weighed.weights) for p, h in held.items()}, weighed, seen


def _gramian(
    held: Mapping[nn.Parameter, Held], rows: Sequence[Row]
) -> Float64[Tensor, "task task"]:
    """M; small parameters end to end, since each call costs more than they do."""
    M = torch.zeros(len(rows), len(rows), dtype=torch.float64)
    small = [p for p in held if p.numel() <= CHUNK]
    if small:
        each = [[row[p] if p in row else torch.zeros_like(p) for p in small] for row in rows]
        G = torch.stack([torch.cat([g.detach().flatten() for g in row]) for row in each])
        M += inner(G, G).cpu()
    for parameter, blocks in held.items():
        if parameter.numel() > CHUNK:
            M += blocks.gramian(len(rows)).cpu()
    return M
