"""Pseudo-labels: a model's own predictions as targets, where it has reason to be sure.

The objective of aTLAS at test time: Zhang, Albert, Rodriguez-Opazo, van den Hengel, Abbasnejad,
NeurIPS 2024, arXiv 2407.02880, after FixMatch: Sohn et al., NeurIPS 2020, arXiv 2001.07685. Some
inputs, the surest of each class, are trusted with their predicted class; any other input gets the
model's soft prediction on a weakly changed view as the target of a strongly changed one, and
counts only while that prediction is nearly certain.

    trusted:  the k inputs of each predicted class with the largest p_c
    w_i = 1 if i is trusted or max_c q_i,c > threshold, else 0
    loss = sum_i w_i CE(z_i, t_i) / sum_i w_i       t_i: one-hot if trusted, else q_i;   0 / 0 = 0

    p: [row class]; z: logits of the strong views [row class]; q: softmax of the weak views'

Difference from the paper: an input is ranked in its most probable class only, so that none is
trusted with two.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from taskgrove.errors import TaskgroveError

NONE = -1  # the label of an input that is not trusted


def trusted_topk(p: Float[Tensor, "row class"], k: int) -> Int[Tensor, " row"]:
    """The predicted class of each trusted input, -1 for the others.

    >>> trusted_topk(torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.3, 0.7]]), k=1).tolist()
    [0, -1, 1]
    """
    if k < 1:
        raise TaskgroveError(f"k is {k}; expected at least one trusted input per class.")
    sure, predicted = p.max(dim=1)
    trusted = torch.full_like(predicted, NONE)
    for c in predicted.unique():
        mine = (predicted == c).nonzero()[:, 0]
        best = mine[sure[mine].argsort(descending=True, stable=True)[:k]]
        trusted[best] = c
    return trusted


def fixmatch_loss(
    weak: Float[Tensor, "row class"],  # logits; no gradient flows into them
    strong: Float[Tensor, "row class"],  # logits
    trusted: Int[Tensor, " row"],  # classes, -1 where not trusted
    threshold: float = 0.99,
) -> Float[Tensor, ""]:
    """The weighted mean cross-entropy of the strong views."""
    q = weak.detach().float().softmax(dim=1)
    known = trusted != NONE
    one_hot = torch.nn.functional.one_hot(trusted.clamp(min=0), q.shape[1]).to(q)
    target = torch.where(known[:, None], one_hot, q)  # [row class]
    w = (known | (q.amax(dim=1) > threshold)).to(q)
    ce = -(target * strong.float().log_softmax(dim=1)).sum(dim=1)
    return (w * ce).sum() / w.sum().clamp(min=1)
