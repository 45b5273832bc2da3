"""Dynamic alpha: how far an expert moves the large model, chosen anew at each step.

On Giant's Shoulders: Effortless Weak to Strong by Dynamic Logits Fusion, Fan, Lu, Wei, Tian, Qu,
Chen, Cheng, NeurIPS 2024, arXiv 2406.15480. Tuning moved the small model's next-token distribution
by some KL divergence; alpha is such that the large model's moves by as much.

    P~(alpha) = softmax(log P + sum_t alpha_t delta_t)                     (see logit_arithmetic)
    one expert:  alpha* in [0, hi] with KL(P~(alpha) || P) = KL(Q_1 || Q)          (match_kl)
    several:     argmin_alpha sum_t (KL(P~ || P) - KL(Q_t || Q))^2
                              [+ (KL(P~ || P~_t) - KL(Q_bar || Q_t))^2]      (match_kl_multi)

    P, Q, Q_t: large, small, expert t [batch vocabulary]; P~_t: fused with expert t alone at its
    alpha*; Q_bar = softmax(mean_t M_S^t), the experts' centre; delta [expert batch vocabulary];
    targets KL(Q_t || Q), centre KL(Q_bar || Q_t): [expert batch]; alpha [batch expert]

KL(P~(alpha) || P) is 0 at 0 and has the derivative alpha Var_{P~}(delta) >= 0, so bisection finds
the one solution; alpha* = hi where even hi moves too little, 0 where nothing is to be moved.
Methods for several experts: "axes" tries each expert alone at its alpha* and the average of each
two; "random" also `samples` averages with weights from Dirichlet(1), the same at every step;
"joint" is ours: one common weight, by which sum_t delta_t moves P by mean_t KL(Q_t || Q).
Without the second term the objective sees how far P~ lies from P but not in which direction.

Differs from the paper: bisection for its grid of alpha; its search among several experts is only
partly described, so the candidates above are ours.
"""

import math
from dataclasses import dataclass
from itertools import combinations
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from taskgrove.composing.logit_arithmetic import Deltas, Logits, differences, kl, shifted
from taskgrove.errors import TaskgroveError, did_you_mean, listed

Method = Literal["axes", "random", "joint"]
EachExpert = Float[Tensor, "expert batch"]
SAMPLES = 20
NOTHING = 1e-6  # nats: fp32's rounding of a KL
MASKED = -1e30  # what times 0 is 0, as -inf is not
NUMBERS = 1 << 21  # how many probabilities a step holds at a time: what a cache holds is faster


@dataclass(frozen=True)
class Rule:
    """How alpha is chosen. `alpha`: a fixed weight for every expert (proxy tuning: 1.0) in place
    of a choice. `method`, `centroid` (the objective's second term): with several experts."""

    method: str = "random"  # a Method
    centroid: bool = True
    hi: float = 2.0
    tol: float = 1e-3
    alpha: float | None = None

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            near = did_you_mean(self.method, get_args(Method))
            raise TaskgroveError(
                f'method is "{self.method}"; expected {listed(get_args(Method))}.{near}'
            )
        for name, value in (("hi", self.hi), ("tol", self.tol)):
            if not 0 < value < math.inf:
                raise TaskgroveError(f"{name} is {value}; expected a number above 0.")


def fuse_step(
    large: Logits, small: Logits, experts: Deltas, rule: Rule
) -> tuple[Logits, Float[Tensor, "batch expert"]]:
    """log P~ and alpha of one step, from all models' logits; many rows are done in parts."""
    rows = max(1, NUMBERS // (large.shape[1] * (SAMPLES + len(experts) ** 2)))
    parts = zip(large.split(rows), small.split(rows), experts.split(rows, 1), strict=True)
    done = [_fuse_rows(*part, rule) for part in parts]
    return torch.cat([fused for fused, _ in done]), torch.cat([alpha for _, alpha in done])


def _fuse_rows(large: Tensor, small: Tensor, experts: Tensor, rule: Rule) -> tuple[Tensor, Tensor]:
    log_p, log_q, log_t = (x.float().log_softmax(-1) for x in (large, small, experts))
    deltas = differences(log_q, log_t)
    alpha = choose(log_p, log_q, log_t, deltas, rule)
    return shifted(log_p, deltas, alpha), alpha


def choose(
    log_p: Logits, log_q: Logits, log_t: Deltas, deltas: Deltas, rule: Rule
) -> Float[Tensor, "batch expert"]:
    """alpha by the rule, from log-softmax of all models' logits."""
    if rule.alpha is not None:
        return torch.full((len(log_p), len(deltas)), rule.alpha, device=log_p.device)
    targets = torch.stack([kl(each, log_q) for each in log_t])
    if len(deltas) == 1:
        return match_kl(deltas[0], log_p, targets[0], rule.hi, rule.tol)[:, None]
    centre = centre_targets(log_t) if rule.centroid and rule.method != "joint" else None
    return match_kl_multi(deltas, log_p, targets, rule.method, centre, rule.hi, rule.tol)


def centre_targets(log_t: Deltas) -> EachExpert:
    """KL(Q_bar || Q_t)."""
    centre = log_t.mean(0).log_softmax(-1)
    return torch.stack([kl(centre, each) for each in log_t])


def match_kl(
    delta: Logits,
    log_p: Logits,
    target: Float[Tensor, "batch"],
    hi: float = 2.0,
    tol: float = 1e-3,
) -> Float[Tensor, "batch"]:
    """alpha*, to within `tol`: log2(hi / tol) softmaxes."""
    delta = delta - (log_p.exp() * delta).sum(-1, keepdim=True)  # P~ does not change
    most = torch.full_like(target, hi)
    low, high, reached = torch.zeros_like(target), most, _moved(delta, log_p, most)
    for _ in range(max(1, math.ceil(math.log2(hi / tol)))):
        middle = (low + high) / 2
        far = _moved(delta, log_p, middle) >= target
        low, high = torch.where(far, low, middle), torch.where(far, middle, high)
    alpha = torch.where(reached <= target, most, (low + high) / 2)
    return torch.where((target <= NOTHING) | (reached <= NOTHING), 0, alpha)


def _moved(delta: Logits, log_p: Logits, alpha: Float[Tensor, "batch"]) -> Float[Tensor, "batch"]:
    """KL(P~(alpha) || P) = alpha sum P~ delta - log sum P exp(alpha delta)."""
    x = torch.addcmul(log_p, alpha[:, None], delta)
    log_z = x.logsumexp(-1)
    return alpha * ((x - log_z[:, None]).exp_() * delta).sum(-1) - log_z


def match_kl_multi(
    deltas: Deltas,
    log_p: Logits,
    targets: EachExpert,
    method: str = "random",
    centroid: EachExpert | None = None,
    hi: float = 2.0,
    tol: float = 1e-3,
    samples: int = SAMPLES,
) -> Float[Tensor, "batch expert"]:
    """alpha of several experts. `centroid`: KL(Q_bar || Q_t), to use the second term."""
    if method == "joint":
        common = match_kl(deltas.sum(0), log_p, targets.mean(0), hi, tol)
        return common[:, None].expand(-1, len(deltas))
    T, batch = targets.shape
    each = match_kl(deltas.flatten(0, 1), log_p.repeat(T, 1), targets.flatten(), hi, tol)
    alone = each.unflatten(0, (T, batch)).T  # [batch expert]
    shares = candidates(T, samples if method == "random" else 0).to(alone)
    alpha = shares[:, None] * alone  # [candidate batch expert]
    fused = (log_p + torch.einsum("cbt,tbv->cbv", alpha, deltas)).log_softmax(-1)
    p, log = fused.exp(), fused.clamp_min(MASKED)
    likely = torch.einsum("cbv,cbv->cb", p, log)  # sum P~ log P~
    moved = likely - torch.einsum("cbv,bv->cb", p, log_p.clamp_min(MASKED))  # KL(P~ || P)
    loss = (moved[:, None] - targets).square().sum(1)
    if centroid is not None:
        apart = likely[:, None] - torch.einsum("cbv,tbv->ctb", p, log[:T])  # KL(P~ || P~_t)
        loss = loss + (apart - centroid).square().sum(1)
    best = loss.argmin(0)
    return alpha[best, torch.arange(batch, device=best.device)]


def candidates(experts: int, samples: int) -> Float[Tensor, "candidate expert"]:
    """Shares of the experts' own alpha*: each alone, the average of each two, `samples` drawn.

    >>> candidates(2, 0)
    tensor([[1.0000, 0.0000],
            [0.0000, 1.0000],
            [0.5000, 0.5000]])
    """
    alone = torch.eye(experts)
    pairs = [(alone[a] + alone[b]) / 2 for a, b in combinations(range(experts), 2)]
    drawn = torch.empty(samples, experts).exponential_(generator=torch.Generator().manual_seed(0))
    return torch.cat([alone, *(pair[None] for pair in pairs), drawn / drawn.sum(1, keepdim=True)])
