"""Losses of routers.

mutual_information  I(T; E) = sum_t,e P(t) P(e|t) log(P(e|t) / P(e)), to be made large: experts
                    even overall, few for each task. Mod-Squad, Chen et al. 2023, arXiv 2212.08066
switch_balance      E sum_e f_e P_e, f the share of tokens sent to e, P its mean probability.
                    Switch Transformers, Fedus et al. 2022, arXiv 2101.03961
z_loss              mean of (log sum_e exp logit_e)^2. ST-MoE, Zoph et al. 2022, arXiv 2202.08906
cv_squared          variance of the experts' mass over its squared mean. Shazeer et al. 2017,
                    arXiv 1701.06538

Symbols: P [task expert], rows P(e|t). P(t) is 1/T whatever the batch holds, so that the loss cannot
shrink by the mix of data. A batch may show one task, so P is a running estimate: `blended` has the
value decay P + (1 - decay) fresh, and the whole gradient of that value flows to the fresh part.
Differs from the papers: the last sentence; the form that the authors give to one task a step is not
known to us.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from taskgrove.sharing.chosen import Chosen
from taskgrove.sharing.route import Route


def shares(
    probabilities: Float[Tensor, "position expert"], route: Route
) -> Float[Tensor, "group expert"]:
    """P(e|t) of the batch's tasks, in their order: the mean over the tokens of each one's entries,
    which are sorted by task. A task without entries has zeros."""
    tokens = len(probabilities) // max(1, route.starts[-1])
    size = torch.tensor(route.sizes, device=probabilities.device)
    of = torch.arange(len(size), device=size.device).repeat_interleave(size * tokens)
    total = probabilities.new_zeros(len(size), probabilities.shape[1])
    return total.index_add_(0, of, probabilities) / (size * tokens).clamp(min=1).unsqueeze(1)


def blended(
    P: Float[Tensor, "task expert"],
    fresh: Float[Tensor, "group expert"],
    groups: Tensor,
    decay: float,
) -> Float[Tensor, "task expert"]:
    """P with the rows `groups` moved towards `fresh`, which alone takes a gradient."""
    fresh = fresh.to(P.dtype)
    moved = decay * P[groups] + (1 - decay) * fresh.detach()
    return P.index_copy(0, groups, moved + fresh - fresh.detach())


def mutual_information(P: Float[Tensor, "task expert"]) -> Float[Tensor, ""]:
    """I(T; E), from 0 (all tasks alike) to the log of the lesser of tasks and experts."""
    P = P / P.sum(1, keepdim=True)
    mean = P.mean(0)
    return torch.xlogy(P, P).sum(1).mean() - torch.xlogy(mean, mean).sum()  # H(E) - H(E|T)


def switch_balance(chosen: Chosen) -> Float[Tensor, ""]:
    """1 where experts are used evenly, up to E."""
    sizes = chosen.probabilities.new_tensor(chosen.route.sizes)
    f = sizes / sizes.sum()
    return len(f) * (f * chosen.probabilities.mean(0)).sum()


def z_loss(logits: Float[Tensor, "position expert"]) -> Float[Tensor, ""]:
    """Keeps logits small."""
    return logits.logsumexp(-1).square().mean()


def cv_squared(mass: Float[Tensor, " expert"]) -> Float[Tensor, ""]:
    """0 where all experts have the same mass."""
    return mass.var(unbiased=False) / mass.mean().square()
