"""The obvious twins of the weightings on the Gramian: on explicit rows G [task dim]."""

import torch


def bargain_by_coordinates(M, p, alpha=1.0, sweeps=30):
    """a_i (M a)_i = p_i^(1/alpha) a_i^(1 - 1/alpha), one a_i at a time, each by halving."""
    a = 1 / M.diagonal().sqrt()
    for _ in range(sweeps):
        for i in range(len(a)):
            others = M[i] @ a - M[i, i] * a[i]
            low, high = torch.tensor(0.0).double(), a[i] * 2.0**20
            for _ in range(55):
                middle = (low + high) / 2
                grows = middle * (M[i, i] * middle + others) < p[i] ** (1 / alpha) * middle ** (
                    1 - 1 / alpha
                )
                low, high = (middle, high) if grows else (low, middle)
            a[i] = middle
    return a


def aligned_rows(G, share):
    """d = Ghat^T share, Ghat = sigma_R U V^T: G with all of its R singular values the smallest."""
    U, sigma, V = torch.linalg.svd(G, full_matrices=False)
    kept = sigma**2 > len(G) * 2.0**-23 * sigma[0] ** 2
    return share @ (U[:, kept] * sigma[kept][-1] @ V[kept])


def con_fig_rows(G, share):
    """The paper's formula, with the mean by share in place of the sum of the projections."""
    units = G / G.norm(dim=1, keepdim=True)
    direction = torch.linalg.pinv(units) @ (len(G) * share)
    direction = direction / direction.norm()
    return (share @ (G @ direction)) * direction


def imtl_g_rows(G):
    """The paper's closed form for a_2, ..., a_K."""
    units = G / G.norm(dim=1, keepdim=True)
    U, D = units[:1] - units[1:], G[:1] - G[1:]
    rest = G[0] @ U.T @ torch.linalg.inv(D @ U.T)
    return torch.cat([1 - rest.sum()[None], rest])


def pcgrad_rows(G, share, orders):
    """Algorithm 1 of the PCGrad paper."""
    d = torch.zeros_like(G[0])
    for i, order in enumerate(orders):
        p = G[i].clone()
        for j in order:
            if p @ G[j] < 0:
                p = p - (p @ G[j]) / (G[j] @ G[j]) * G[j]
        d += share[i] * p
    return d


def gradvac_rows(G, share, orders, target, beta):
    """GradVac as its paper puts it; changes target."""
    d = torch.zeros_like(G[0])
    for i, order in enumerate(orders):
        p = G[i].clone()
        for j in order:
            phi, want = p @ G[j] / (p.norm() * G[j].norm()), target[i, j].clone()
            if phi < want:
                sines = (1 - phi**2).sqrt(), (1 - want**2).sqrt()
                length = p.norm() * (want * sines[0] - phi * sines[1]) / (G[j].norm() * sines[1])
                p = p + length * G[j]
            target[i, j] = (1 - beta) * want + beta * phi
        d += share[i] * p
    return d
