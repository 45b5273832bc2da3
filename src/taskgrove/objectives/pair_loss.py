"""The loss of a batch of text pairs: InfoNCE, or CoSENT where the pairs are graded.

    s = cos(f(first), f(second and hard)) / temperature      see info_nce and cosent

Texts of the same class, second texts that are equal and candidates of an equal query are never
negatives of each other.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from taskgrove.objectives.cosent import cosent
from taskgrove.objectives.info_nce import apart, info_nce, partners
from taskgrove.tasks.pairs import PairBatch

Embed = Callable[[list[str]], Float[Tensor, "text dim"]]  # vectors of unit length


def pair_loss(embed: Embed, batch: PairBatch, temperature: float = 0.05) -> Float[Tensor, ""]:
    """Mean over the batch."""
    q, k = embed(batch.first), embed(batch.second + batch.hard)
    if batch.grades:
        grades = torch.tensor(batch.grades, dtype=torch.float32, device=q.device)
        return cosent(torch.cosine_similarity(q, k), grades, temperature)
    a, b = len(q), len(k)
    allowed = apart(torch.tensor(batch.first_keys), torch.tensor(batch.second_keys))
    twins = torch.tensor(batch.twins)
    allowed[:, :a] &= apart(twins, twins)
    masks = (mask.to(q.device) for mask in (partners(a, b), allowed))
    return info_nce(q, k, *masks, temperature=temperature).mean()
