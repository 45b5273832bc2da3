"""Task-based SAM the obvious way: explicit rows, deep copies, one task after the other."""

import copy

import torch


def rows_of(trunk, heads, loss_of, t):
    """(g [shared], q [own]) of task t's loss at these weights."""
    loss, s, h = loss_of(trunk, heads, t), list(trunk.parameters()), list(heads[t].parameters())
    found = torch.autograd.grad(loss, [*s, *h])
    g = torch.cat([x.flatten() for x in found[: len(s)]])
    return g, torch.cat([x.flatten() for x in found[len(s) :]])


def task_sam(trunk, heads, loss_of, X, rho_shared, rho_head, split=True):
    """(d, [q_i^SAM]); `loss_of(trunk, heads, t)` is a scalar, X maps rows [task shared] to d."""
    G, H, Q = [], [], []
    for t in range(len(heads)):
        g, q = rows_of(trunk, heads, loss_of, t)
        high = copy.deepcopy(trunk), copy.deepcopy(heads)
        for part, step in (
            (high[0], rho_shared * g / g.norm()),
            (high[1][t], rho_head * q / q.norm()),
        ):
            v = torch.nn.utils.parameters_to_vector(part.parameters()) + step
            torch.nn.utils.vector_to_parameters(v, part.parameters())
        g_sam, q_sam = rows_of(*high, loss_of, t)
        G, H, Q = [*G, g], [*H, g_sam], [*Q, q_sam]
    G, H = torch.stack(G), torch.stack(H)
    return (X(G) + X(H - G) if split else X(H)), Q
