"""Obvious twins of what learned merges share."""

import torch


def entropy(logits, kind):
    z = logits.double()
    p = z.softmax(-1) if kind == "classes" else torch.stack([z.sigmoid(), 1 - z.sigmoid()])
    terms = torch.where(p > 0, -p * p.log(), 0).sum(-1)
    return terms if kind == "classes" else terms.sum(0)
