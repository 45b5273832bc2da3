"""The obvious twin of fusion while decoding: whole rows, one at a time, no cache, a fine grid."""

import torch


def alpha_on_a_grid(delta, p, target, hi=2.0, steps=20001):
    """alpha [one row]: where KL(P~(alpha) || P) comes nearest to the target."""
    grid = torch.linspace(0, hi, steps, dtype=torch.float64)
    fused = (p.double().log() + grid[:, None] * delta.double()).softmax(-1)
    kl = (fused * (fused.log() - p.double().log())).sum(-1)
    return grid[(kl - target).abs().argmin()].item()


def greedy(large, small, experts, prompt, steps, choose):
    """Tokens after one prompt (a list); `choose(logits of all) -> log P~ [vocabulary]`."""
    row = list(prompt)
    for _ in range(steps):
        ids = torch.tensor([row])
        logits = [model(ids).logits[:, -1].detach() for model in (large, small, *experts)]
        row.append(choose(logits).argmax(-1).item())
    return row[len(prompt) :]
