"""Obvious twins of sharing/weight_codec and sharing/weight_ridge."""

import numpy as np


def encoded(state, stats):
    """One number after the other."""
    found = []
    for (_, w), (m, s) in zip(sorted(state.items()), stats.tolist(), strict=True):
        found += [(value - m) / s for value in w.flatten().tolist()]
    return np.array(found)


def ridge(w, c, new, components, penalty):
    """The normal equations, in the space of c, on components from the covariance."""
    W, C = w - w.mean(0), (c - c.mean(0)) / np.sqrt(np.mean((c - c.mean(0)) ** 2))
    V = np.linalg.eigh(W.T @ W)[1][:, ::-1][:, :components]
    M = np.linalg.inv(C.T @ C + penalty * np.eye(C.shape[1])) @ C.T @ (W @ V)
    x = (new - c.mean(0)) / np.sqrt(np.mean((c - c.mean(0)) ** 2))
    return w.mean(0) + x @ M @ V.T
