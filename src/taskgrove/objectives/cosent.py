"""CoSENT: of any two pairs of texts, the one that people call more alike gets the larger cosine.

Jianlin Su, "CoSENT (1)", 2022, https://kexue.fm/archives/8847; Huang et al., "CoSENT: Consistent
Sentence Embedding via Similarity Ranking", IEEE/ACM TASLP 2024. A ranking loss over all pairs of a
batch, on the very quantity that Spearman's correlation later reads.

    L = log(1 + sum_{(p, r): y_p > y_r} exp((c_r - c_p) / temperature))

    c_p = cos(a_p, b_p) [pair]; y_p: graded likeness, of any unit [pair]; L: a number

Only the order of y matters: pairs with equal y say nothing about each other. Computed in fp32.
Difference from the paper: nothing (its lambda is 1 / temperature = 20).
"""

import torch
from jaxtyping import Float
from torch import Tensor

from taskgrove.errors import TaskgroveError


def cosent(
    c: Float[Tensor, " pair"], y: Float[Tensor, " pair"], temperature: float = 0.05
) -> Float[Tensor, ""]:
    """The loss of a batch of pairs, from their cosines.

    >>> cosent(torch.tensor([0.5, 0.5]), torch.tensor([1.0, 0.0]))  # log(1 + exp(0))
    tensor(0.6931)
    """
    if not temperature > 0:
        raise TaskgroveError(f"the temperature is {temperature}; expected a number above 0.")
    above = y[:, None] > y[None, :]  # [pair pair]: p is more alike than r
    d = (c.float()[None, :] - c.float()[:, None]) / temperature  # c_r - c_p
    one = d.new_zeros(1)  # log 1
    return torch.cat([one, d[above]]).logsumexp(0)
