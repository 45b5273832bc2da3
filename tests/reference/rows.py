"""The obvious twins of the methods that see the rows themselves."""

import torch


def graddrop_rows(G, share, U, leak):
    """Algorithm 1 of the GradDrop paper, element by element; G [task dim], U [dim]."""
    d = []
    for i in range(G.shape[1]):
        column = [float(s * g) for s, g in zip(share, G[:, i], strict=True)]
        magnitude = sum(abs(g) for g in column)
        P = 0.5 * (1 + sum(column) / magnitude) if magnitude else 0.5
        sign = 1 if U[i] < P else -1
        d.append(sum(g if g * sign > 0 else leak * g for g in column))
    return torch.tensor(d, dtype=G.dtype)


def moco_rows(tasks, dim, batches, beta, gamma, sigma, rho):
    """d of each batch [(number, row) ...], and the state (Y, lambda) at the end."""
    Y, lam = torch.zeros(tasks, dim).double(), torch.ones(tasks).double() / tasks
    seen, found = [0] * tasks, []
    for batch in batches:
        here = [number for number, _ in batch]
        for number, row in batch:
            seen[number] += 1
            Y[number] -= beta / seen[number] ** sigma * (Y[number] - row)
        k, mass = max(seen[number] for number in here), lam[here].sum()
        w = lam[here] / mass if mass > 0 else torch.ones(len(here)).double() / len(here)
        w = nearest_on_simplex(w - gamma / k**sigma * (Y[here] @ Y[here].T @ w + rho * w))
        lam[here] = w * mass
        found.append(w @ Y[here])
    return found, Y, lam


def nearest_on_simplex(v):
    """max(v - shift, 0) with the shift at which it sums to 1, by halving an interval."""
    low, high = v.max() - 1, v.max()
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if (v - middle).clamp(min=0).sum() > 1 else (low, middle)
    return (v - low).clamp(min=0)
