"""The obvious twins of `sharing.mmoe`: a row after the other, an expert after the other."""

import torch


def ple_row(x, task, parts):
    """PLE of one row; MMoE and CGC are its cases."""
    own = common = x
    for n in range(parts.choice.levels):
        f = [W @ common + b for W, b in zip(parts.W[n], parts.b[n], strict=True)]
        if parts.choice.own:
            f += (parts.own_W[n][task] @ own + parts.own_b[n][task]).split(len(x))
        f = torch.stack([each.relu() for each in f])
        before = common
        if n < parts.choice.levels - 1:
            common = (parts.common[n] @ before).softmax(0) @ f
        own = (parts.gate[n][task] @ own).softmax(0) @ f
    return own
