"""The obvious twins of MGDA, UPGrad, DualProj and CAGrad, on explicit rows; hard rows for them."""

import numpy as np
from scipy.optimize import minimize, nnls

KINDS = ("plain", "mean", "twice", "opposed", "almost opposed", "almost twice")


def draw_rows(seed, tasks=50):
    """G [task dim] with 2 to `tasks` tasks, of each kind and size, every second one spread."""
    rng = np.random.default_rng(seed)
    kind = KINDS[seed % 6]
    K, n = int(rng.integers(2, tasks + 1)), int(rng.choice([2, 3, 5, 10, 30, 50, 100, 400]))
    G = rng.standard_normal((K, n))
    if kind == "mean":
        G += rng.uniform(0, 2) * rng.standard_normal(n)
    if "twice" in kind:
        G = G[rng.integers(K, size=K)] + ("almost" in kind) * 1e-5 * G
    if "opposed" in kind:
        G[K // 2 : K // 2 * 2] = -G[: K // 2] * rng.uniform(0.1, 2, size=(K // 2, 1))
        G += ("almost" in kind) * 1e-4 * rng.standard_normal(G.shape)
    return G * 10 ** rng.uniform(-6, 6, size=(K, 1)) if seed // 6 % 2 else G


def project(G, g):
    """The nearest point to g that conflicts with no row: g + G^T x, x >= 0 (Moreau)."""
    U = G / np.linalg.norm(G, axis=1, keepdims=True)
    return g + U.T @ nnls(U.T, -g, maxiter=100 * len(U))[0]


def upgrad_rows(G, share):
    """The mean of the projected rows."""
    return sum(s * project(G, g) for s, g in zip(share, G, strict=True))


def dualproj_rows(G, share):
    """The projected mean of the rows."""
    return project(G, share @ G)


def cagrad_dual(G, share, c):
    """(w, value) of CAGrad's dual by sequential least squares from some starts: an upper bound."""
    g_0 = share @ G

    def value(w):
        return (w @ G) @ g_0 + c * np.linalg.norm(g_0) * np.linalg.norm(w @ G)

    sums = {"type": "eq", "fun": lambda w: w.sum() - 1}
    starts = [share, *(0.9 * np.eye(len(G)) + 0.1 * share)]
    found = [
        minimize(value, w, method="SLSQP", bounds=[(0, 1)] * len(G), constraints=sums, tol=1e-13).x
        for w in starts
    ]
    best = min(found, key=value)
    w = np.maximum(best, 0) / np.maximum(best, 0).sum()
    return w, value(w)
