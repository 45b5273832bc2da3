"""The obvious twin of a balancing step: every task's gradient written out by autograd."""

import torch


def task_gradients(losses, parameters):
    """G [task parameter]."""
    rows = []
    for loss in losses:
        found = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
        pairs = zip(parameters, found, strict=True)
        rows.append(torch.cat([(p * 0 if g is None else g).flatten() for p, g in pairs]))
    return torch.stack(rows).detach()


def balanced(losses, parameters, share, weigh):
    """d [parameter] and M [task task] of a weighting (M, share) -> w."""
    G = task_gradients(losses, parameters).double()
    return weigh(G @ G.T, share) @ G, G @ G.T
