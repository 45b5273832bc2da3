"""Obvious twins of learned merges: K scaled copies of every tensor, and autograd through them."""

import torch
from torch.func import functional_call


def scaled(base, deltas, c, parts=None):
    """theta; c [model tensor], or [model tensor part] with parts: name -> [element]."""
    merged = {}
    for i, (name, tau) in enumerate(deltas.items()):
        mine = c[:, i] if parts is None else c[:, i][:, parts[name]]  # [model], [model element]
        copies = mine.reshape(len(tau), *(tau.shape[1:] if parts else [1] * (tau.ndim - 1))) * tau
        merged[name] = base[name] + copies.sum(0)
    return merged


def gradient(model, base, deltas, c, loss, parts=None):
    """dL/dc of a module called with scaled copies."""
    c = c.clone().requires_grad_()
    loss(lambda x: functional_call(model, scaled(base, deltas, c, parts), (x,))).backward()
    return c.grad


def clean(deltas, density):
    """TIES' trim and sign on one long vector a model, by sorting."""
    tau = torch.cat([d.flatten(1) if d.ndim > 1 else d[:, None] for d in deltas.values()], 1)
    kept = max(1, round(density * tau.shape[1]))
    that = tau * (tau.abs() >= tau.abs().sort(1, descending=True).values[:, kept - 1 : kept])
    return that * (that.sign() == that.sum(0).sign()) * (that.sum(0) != 0)
