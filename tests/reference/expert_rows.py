"""The obvious twins of `sharing.experts` and `sharing.expert_attention`: token after token."""

import torch
from torch.nn.functional import gelu


def expert_rows(x, logits, k, W1, b1, W2, b2, renormalise):
    """x [position dim], logits [position expert]: the k likeliest experts, one after the other."""
    found = []
    for row, p in zip(x, logits.softmax(-1), strict=True):
        gates, experts = p.topk(k)
        gates = gates / gates.sum() if renormalise else gates
        terms = [
            g * (W2[e] @ gelu(W1[e] @ row + b1[e]) + b2[e])
            for g, e in zip(gates, experts.tolist(), strict=True)
        ]
        found.append(sum(terms))
    return torch.stack(found)


def attention_rows(x, logits, k, kv, Wq, Wo):
    """x [token dim] of one entry: each token's k heads over the shared keys and values."""
    keys, values = kv(x).chunk(2, -1)
    found = []
    for row, p in zip(x, logits.softmax(-1), strict=True):
        gates, experts = p.topk(k)
        y = 0
        for g, e in zip(gates, experts.tolist(), strict=True):
            weights = (keys @ (Wq[e] @ row) / keys.shape[1] ** 0.5).softmax(0)
            y = y + g * (Wo[e] @ (weights @ values))
        found.append(y)
    return torch.stack(found)
