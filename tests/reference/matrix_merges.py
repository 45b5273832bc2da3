"""Obvious twins of the merges that need matrices or statistics: whole arrays in float64."""

import numpy as np


def fisher(models, fishers, weights):
    """The weighted mean, number by number; where all Fishers are 0 the mean by weights."""
    top = sum(w * F * theta for w, F, theta in zip(weights, fishers, models, strict=True))
    bottom = sum(w * F for w, F in zip(weights, fishers, strict=True))
    plain = sum(w * theta for w, theta in zip(weights, models, strict=True)) / sum(weights)
    return np.where(bottom > 0, top / np.where(bottom > 0, bottom, 1), plain)


def regmean(weights, inputs, alpha):
    """Weights [out in]; as the paper's equation, from the inputs themselves."""
    grams = [X.T @ X / len(X) for X in inputs]
    hats = [alpha * G + (1 - alpha) * np.diag(np.diag(G)) for G in grams]
    return np.linalg.solve(sum(hats), sum(G @ W.T for G, W in zip(hats, weights, strict=True))).T


def nearest_orthonormal(X):
    """X (X^T X)^(-1/2): the polar factor, by eigenvalues."""
    values, vectors = np.linalg.eigh(X.T @ X)
    return X @ (vectors / np.sqrt(values)) @ vectors.T


def tsv(base, deltas, alpha):
    keep = max(1, min(base.shape) // len(deltas))
    parts = [np.linalg.svd(tau) for tau in deltas]
    U = nearest_orthonormal(np.hstack([U[:, :keep] for U, _, _ in parts]))
    V = nearest_orthonormal(np.hstack([Vt[:keep].T for _, _, Vt in parts]))
    return base + alpha * U @ np.diag(np.concatenate([s[:keep] for _, s, _ in parts])) @ V.T


def iso_c(base, deltas, alpha):
    """By the polar factor: U V^T = tau (tau^T tau)^(-1/2) for full column rank."""
    total = sum(deltas)
    tall = total if total.shape[0] >= total.shape[1] else total.T
    U_V = nearest_orthonormal(tall)
    mean = np.linalg.norm(total, "nuc") / min(total.shape)
    return base + alpha * mean * (U_V if tall is total else U_V.T)


def lora(weight, A, B, scale, transposed=False, m=None):
    """theta_0 + scale B A, then DoRA's m over the norms of each output's weights."""
    change = scale * (B.reshape(len(B), -1) @ A.reshape(len(A), -1))
    theta = weight.reshape(weight.shape[0], -1) + (change.T if transposed else change)
    if m is not None:
        axis = 0 if transposed else 1
        n = np.linalg.norm(theta, axis=axis)
        theta = theta * np.expand_dims(m / n, axis)
    return theta.reshape(weight.shape)
