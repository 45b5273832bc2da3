"""Obvious twins of the static methods: whole tensors, sorting, float64 once decisions are made."""

from hashlib import blake2b
from itertools import combinations

import numpy as np


def vectors(base, tuned):
    kind = np.float64 if base.dtype == np.float64 else np.float32
    return np.stack([model.astype(kind) - base.astype(kind) for model in tuned])  # [model ...]


def elected(that):
    gamma = np.sign(that.sum(axis=0))
    return np.where((np.sign(that) == gamma) & (gamma != 0), that, 0).astype(np.float64)


def elected_mean(that):
    tilde = elected(that)
    return tilde.sum(axis=0) / np.maximum((tilde != 0).sum(axis=0), 1)


def kth(values, k):
    return np.sort(values, axis=None)[::-1][k - 1]


def average(_, tuned, weights=None):
    w = np.array(weights or [1] * len(tuned), float)
    return sum(wk * t.astype(float) for wk, t in zip(w / w.sum(), tuned, strict=True))


def task_arithmetic(base, tuned, scale):
    lam = np.broadcast_to(scale, len(tuned))
    return base + sum(c * t.astype(float) for c, t in zip(lam, vectors(base, tuned), strict=True))


def wise_ft(base, tuned, alpha):
    return (1 - alpha) * base.astype(float) + alpha * tuned[0].astype(float)


def ties(base, tuned, density, scale):
    tau = vectors(base, tuned)
    keep = max(1, round(density * base.size))
    that = [np.where(abs(t) >= kth(abs(t), keep), t, 0) for t in tau] if base.size else tau
    return base + scale * elected_mean(np.stack(that))


def dare(base, tuned, masks, density, scale, rescale, combine):
    dhat = vectors(base, tuned).astype(float) * masks / (density if rescale else 1)
    return base + scale * (elected_mean(dhat) if combine == "ties" else dhat.sum(axis=0))


def breadcrumbs(base, tuned, beta, gamma, scale):
    total, n = np.zeros(base.shape), base.size
    for tau in vectors(base, tuned) if n else ():
        size = np.sort(abs(tau), axis=None)
        last = max(0, n - 1 - round((1 - gamma) * n))
        first = min(last, round(beta * n))
        total += np.where((abs(tau) >= size[first]) & (abs(tau) <= size[last]), tau, 0)
    return base + scale * total


def della(base, tuned, draws, density, epsilon, scale, rescale):
    """draws [model ...]: uniform in [0, 1); row by row, number by number."""
    tau = vectors(base, tuned).reshape(len(tuned), *(base.shape if base.ndim > 1 else (1, -1)))
    tau = tau.reshape(*tau.shape[:2], -1) if base.size else tau.reshape(len(tuned), 0, 0)
    dhat, u = np.zeros(tau.shape), np.reshape(draws, tau.shape)
    for k, row in np.ndindex(tau.shape[:2]):
        n = tau.shape[2]
        for place, i in enumerate(np.argsort(abs(tau[k, row]), kind="stable")):
            p = 1 - density - epsilon / 2 + epsilon * (n - 1 - place) / n if density < 1 else 0
            if u[k, row, i] < 1 - p:
                dhat[k, row, i] = tau[k, row, i] / (1 - p if rescale else 1)
    return base + scale * elected_mean(dhat).reshape(base.shape)


def slerp(base, tuned, t):
    x, y = (model.astype(float).reshape(-1) for model in tuned)
    norms = np.linalg.norm(x) * np.linalg.norm(y)
    omega = np.arccos(np.clip(x @ y / norms, -1, 1)) if norms else 0
    a, b = 1 - t, t
    if np.sin(omega) >= 1e-6:
        a, b = np.sin((1 - t) * omega) / np.sin(omega), np.sin(t * omega) / np.sin(omega)
    return (a * x + b * y).reshape(base.shape)


def model_stock(base, tuned):
    tau, N = vectors(base, tuned).astype(float).reshape(len(tuned), -1), len(tuned)
    norm = np.linalg.norm(tau, axis=1)
    unit = tau / np.where(norm > 0, norm, 1)[:, None]
    cos = np.mean([unit[i] @ unit[j] for i, j in combinations(range(N), 2)])
    t = N * max(cos, 0) / (1 + (N - 1) * max(cos, 0))
    return t * average(base, tuned) + (1 - t) * base.astype(float)


def sce(base, tuned, density, scale):
    tau = vectors(base, tuned)
    variance = ((tau - tau.mean(axis=0)) ** 2).sum(axis=0) / len(tau)
    keep = max(1, round(density * base.size))
    that = np.where(variance >= (kth(variance, keep) if base.size else 0), tau, 0)
    squares = (that.astype(float) ** 2).reshape(len(tau), -1).sum(axis=1)
    eta = squares / squares.sum() if squares.sum() else np.ones(len(tau))
    eta = eta.reshape(-1, *[1] * base.ndim)
    tilde = elected(that)
    weight = (eta * (tilde != 0)).sum(axis=0)
    return base + scale * (eta * tilde).sum(axis=0) / np.where(weight > 0, weight, 1)


def consensus(base, tuned, threshold, tasks, scale):
    tau = vectors(base, tuned)
    lam = np.broadcast_to(np.asarray(threshold, tau.dtype), len(tau)).reshape(-1, *[1] * base.ndim)
    masks = abs(tau) >= lam * abs(tau.sum(axis=0) - tau)
    return base + scale * np.where(masks.sum(axis=0) >= tasks, tau.sum(axis=0), 0)


def random_numbers(seed, model, name, places):
    """One number at a time, in plain integers."""
    found = []
    for place in places:
        high, low = divmod(place, 2**32)
        digest = blake2b(f"{seed} {model} {high} {name}".encode(), digest_size=12).digest()
        key = [int.from_bytes(digest[i : i + 4], "little") for i in (0, 4, 8)]
        x = low ^ key[0]
        x = ((x ^ x >> 16) * 0x7FEB352D + key[1]) % 2**32
        x = ((x ^ x >> 15) * 0x846CA68B) % 2**32 ^ key[2]
        found.append(x ^ x >> 16)
    return found
