"""ExpertAttention: a mixture of attention heads.

Mixture of Attention Heads, Zhang et al., EMNLP 2022, arXiv 2210.05144, as used in Mod-Squad, Chen
et al., CVPR 2023, arXiv 2212.08066.

    q_e = Wq_e x;  a_e = softmax(q_e K^T / sqrt(d)) V;  y = sum over the k chosen e: g_e Wo_e a_e

Symbols: x [entry token dim]; K, V [entry token d] of one linear layer, shared by all experts; Wq
[expert d dim], Wo [expert dim d]; each token picks k experts, as many heads as it has queries.
Differs from the papers: the router starts at noise (see `routers`).
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from taskgrove.errors import TaskgroveError
from taskgrove.sharing.chosen import Chosen, combine, spread
from taskgrove.sharing.experts import Router, choose, stack
from taskgrove.sharing.grouped import grouped
from taskgrove.sharing.route import Route


class ExpertAttention(nn.Module):
    """y and what was chosen, of x and the route of its entries over tasks."""

    def __init__(
        self,
        dim: int,
        head: int,
        experts: int,
        router: Router,
        k: int = 4,
        *,
        renormalise: bool = False,
    ) -> None:
        super().__init__()
        if not 1 <= k <= experts:
            raise TaskgroveError(f"{k} active of {experts} experts: give 1 to {experts}")
        self.router, self.k, self.renormalise = router, k, renormalise
        self.kv = nn.Linear(dim, 2 * head)
        self.Wq, self.Wo = stack(experts, head, dim)[0], stack(experts, dim, head)[0]

    def forward(
        self, x: Float[Tensor, "entry token dim"], route: Route
    ) -> tuple[Float[Tensor, "entry token dim"], Chosen]:
        chosen = choose(self.router, x, route, self.k, renormalise=self.renormalise)
        q = grouped(spread(x.reshape(-1, x.shape[-1]), chosen), self.Wq, chosen.route)
        order = chosen.places.flatten()  # of entries, by position and choice
        q = q[order].unflatten(0, (*x.shape[:2], chosen.count))  # [entry token choice head]
        k, v = self.kv(x).unsqueeze(1).chunk(2, -1)  # [entry 1 token head]
        q = q.transpose(1, 2)  # [entry choice token head]
        a = scaled_dot_product_attention(q, k.expand_as(q), v.expand_as(q))
        a = a.transpose(1, 2).reshape(len(order), -1)[back(order)]  # sorted by expert again
        return combine(grouped(a, self.Wo, chosen.route), chosen).view(x.shape), chosen


def back(order: Tensor) -> Tensor:
    """The inverse of a permutation."""
    return torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
