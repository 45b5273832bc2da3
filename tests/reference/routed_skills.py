"""The obvious twin of `sharing.routed_lora`: one task, one head, one skill after the other."""

import torch


def routed_change(x, A, B, Z, scale):
    """s B_t^T A_t x of a task: x [dim], A [skill rank dim], B [skill rank out], Z [head skill]."""
    skills, heads = len(A), len(Z)
    A_t, B_t = torch.zeros_like(A[0]), torch.zeros_like(B[0])
    for h in range(heads):
        total = sum(1 / (1 + torch.exp(-Z[h, s])) for s in range(skills))
        for s in range(skills):
            w = 1 / (1 + torch.exp(-Z[h, s])) / total
            for whole, part in ((A_t, A[s]), (B_t, B[s])):
                size = whole.shape[1] // heads
                whole[:, h * size : (h + 1) * size] += w * part[:, h * size : (h + 1) * size]
    return scale * B_t.T @ (A_t @ x)
