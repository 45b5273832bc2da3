"""Logit arithmetic: a large model's logits, moved as tuning moved small models' logits.

Tuning Language Models by Proxy, Liu, Han, Wang, Tsvetkov, Choi, Smith, COLM 2024, arXiv 2401.08565
(one expert, alpha = 1); On Giant's Shoulders: Effortless Weak to Strong by Dynamic Logits Fusion,
Fan, Lu, Wei, Tian, Qu, Chen, Cheng, NeurIPS 2024, arXiv 2406.15480 (several, any alpha). What
tuning changed in a small model's logits is added to the logits of a large model of the same
vocabulary, which itself is never trained.

    delta_t  = M_S^t - M_S
    P~       = softmax(M_L + sum_t alpha_t delta_t)

    M_L, M_S: large, small [batch vocabulary]; M_S^t: experts [expert batch vocabulary];
    alpha: one number, [expert] or [batch expert]; log P~: [batch vocabulary], fp32

A token that is masked (-inf) in M_L stays masked; one that a small model masks is not moved.
Differs from the papers: nothing.
"""

import torch
from jaxtyping import Float
from torch import Tensor

Logits = Float[Tensor, "batch vocabulary"]
Deltas = Float[Tensor, "expert batch vocabulary"]
Alpha = float | Float[Tensor, "expert"] | Float[Tensor, "batch expert"]


def fuse(large: Logits, small: Logits, experts: Deltas, alpha: Alpha = 1.0) -> Logits:
    """log P~. A single alpha counts for every expert.

    >>> large, small = torch.zeros(1, 2), torch.zeros(1, 2)
    >>> fuse(large, small, torch.tensor([[[0.0, 2.0]]]), 0.5).exp().round(decimals=3)
    tensor([[0.2690, 0.7310]])
    """
    return shifted(large.float(), differences(small, experts), alpha)


def differences(small: Logits, experts: Deltas) -> Deltas:
    """delta, fp32; 0 where a small model masks a token."""
    delta = experts.float() - small.float()
    return torch.where(delta.isfinite(), delta, 0)


def shifted(log_p: Logits, deltas: Deltas, alpha: Alpha) -> Logits:
    """log P~ from M_L (or log P, which differs by a constant) and delta."""
    weights = torch.as_tensor(alpha, dtype=log_p.dtype, device=log_p.device)
    weights = weights.expand(log_p.shape[0], deltas.shape[0])  # [batch expert]
    return (log_p + torch.einsum("bt,tbv->bv", weights, deltas)).log_softmax(-1)


def kl(log_a: Logits, log_b: Logits) -> Float[Tensor, "batch"]:
    """KL(a || b), in nats; tokens without probability in a, or masked in b, do not count."""
    counts = log_a.isfinite() & log_b.isfinite()
    return torch.where(counts, log_a.exp() * (log_a - log_b), 0).sum(-1).clamp_min(0)
