"""The obvious twins of the balancing methods, on explicit gradients."""

import torch


def pcgrad_rows(G, orders):
    """Algorithm 1 of the PCGrad paper; G [task dim], orders[i] lists the tasks j that i meets."""
    projected = []
    for i, order in enumerate(orders):
        p = G[i].clone()
        for j in order:
            if j != i and p @ G[j] < 0:
                p = p - (p @ G[j]) / (G[j] @ G[j]) * G[j]
        projected.append(p)
    return torch.stack(projected).sum(0)
