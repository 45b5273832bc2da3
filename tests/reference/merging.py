"""Obvious twins of `taskgrove.merging`: whole models as one long vector, plain autograd."""

import torch


def flat(weights):
    return torch.cat([w.double().flatten() for w in weights.values()])


def task_arithmetic(base, tuned, scale):
    return flat(base) + scale * sum(flat(model) - flat(base) for model in tuned)


def ties(base, tuned, density, scale):
    """Sorts where the library selects; keeps all coordinates that tie with the last one kept."""
    tau = torch.stack([flat(model) - flat(base) for model in tuned])  # [model coordinate]
    kept = max(1, round(density * tau.shape[1]))
    smallest = tau.abs().sort(dim=1, descending=True).values[:, kept - 1 : kept]
    tau = tau * (tau.abs() >= smallest)
    sign = tau.sum(0).sign()
    sign[sign == 0] = sign.sum().sign()
    tau = tau * (tau.sign() == sign)
    return flat(base) + scale * tau.sum(0) / (tau != 0).sum(0).clamp(min=1)


def scaled_merge(base, deltas, coefficients):
    """Through autograd and K scaled copies; coefficients [model tensor], already clamped."""
    return {
        name: base[name].float() + torch.einsum("k,k...->...", coefficients[:, i], deltas[name])
        for i, name in enumerate(deltas)
    }


def entropy(logits, kind):
    z = logits.double()
    p = z.softmax(-1) if kind == "classes" else torch.stack([z.sigmoid(), 1 - z.sigmoid()])
    terms = torch.where(p > 0, -p * p.log(), 0).sum(-1)
    return terms if kind == "classes" else terms.sum(0)
