"""InfoNCE: a text's partner must score above all others that the batch, or a bank, offers.

van den Oord, Li, Vinyals, "Representation Learning with Contrastive Predictive Coding", 2018,
arXiv 1807.03748; in-batch negatives: Karpukhin et al., "Dense Passage Retrieval", EMNLP 2020, arXiv
2004.04906; several positives: Khosla et al., "Supervised Contrastive Learning", NeurIPS 2020, arXiv
2004.11362.

    s_ij = cos(q_i, k_j) / temperature
    L_i  = mean_{p in P_i} -log exp(s_ip) / (exp(s_ip) + sum_{n in N_i} exp(s_in))
    P_i  = {j: positives_ij},  N_i = {j: allowed_ij and not positives_ij}

    q [a dim]; k [b dim], of any length; positives, allowed [a b] boolean; L [a]

Who counts as what is two masks, made by `partners` and `apart` or by the caller: hard negatives and
a memory bank append columns to k and to both. A row without a positive has the loss 0. Computed in
fp32. Difference from the papers: a positive is not a negative of the others of its row (Khosla et
al. leave them in the denominator), so that with any number of positives the least loss is 0.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import normalize, softplus

from taskgrove.errors import TaskgroveError


def info_nce(
    q: Float[Tensor, "a dim"],
    k: Float[Tensor, "b dim"],
    positives: Bool[Tensor, "a b"],
    allowed: Bool[Tensor, "a b"] | None = None,
    temperature: float = 0.05,
) -> Float[Tensor, " a"]:
    """The loss of each row of q.

    >>> q, k = torch.eye(2), torch.eye(2)
    >>> info_nce(q, k, partners(2, 2), temperature=1.0)  # log(1 + exp(0 - 1))
    tensor([0.3133, 0.3133])
    """
    if not temperature > 0:
        raise TaskgroveError(f"the temperature is {temperature}; expected a number above 0.")
    s = normalize(q.float(), dim=-1) @ normalize(k.float(), dim=-1).T / temperature  # [a b]
    negatives = ~positives if allowed is None else allowed & ~positives
    rest = s.masked_fill(~negatives, -torch.inf)
    none = ~negatives.any(-1, keepdim=True)
    rest = rest.masked_fill(none, 0).logsumexp(-1, keepdim=True)  # [a 1]
    L = softplus(rest - s).masked_fill(none | ~positives, 0)  # -log of the share, [a b]
    return L.sum(-1) / positives.sum(-1).clamp(min=1)


def partners(a: int, b: int) -> Bool[Tensor, "a b"]:
    """Positives where row i of k belongs to row i of q; columns from `a` on are negatives."""
    return torch.eye(a, b, dtype=torch.bool)


def apart(q: Int[Tensor, " a"], k: Int[Tensor, " b"]) -> Bool[Tensor, "a b"]:
    """Allowed where the keys differ: two texts of one class, or the same text twice, are no
    negatives of each other.

    >>> apart(torch.tensor([0, 1]), torch.tensor([0, 1, 1])).int().tolist()
    [[0, 1, 1], [1, 0, 0]]
    """
    return q[:, None] != k[None, :]
