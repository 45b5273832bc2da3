"""The obvious twins of the weightings by losses, with autograd and the papers' own scaling."""

import torch


def geometric_mean_gradient(losses, share):
    """d/dL of prod_t L_t^share_t."""
    L = losses.clone().requires_grad_()
    return torch.autograd.grad(torch.prod(L**share), L)[0]


def dwa_weights(history, window, share, temperature=2.0):
    """The weights of each step; history [step task], every task present in all of them."""
    weights = []
    for step in range(len(history)):
        whole = step // window  # windows that are whole
        r = torch.ones_like(share)
        if whole >= 2:
            means = history[: whole * window].reshape(whole, window, -1).mean(1)
            r = means[-1] / means[-2]
        tilted = share * torch.exp(r / temperature)
        weights.append(tilted / tilted.sum())
    return torch.stack(weights)


def famo_run(theta, losses_of, share, steps, rate):
    """Algorithm 1 of FAMO as released: the model's gradient comes from its weighted log loss."""
    xi = torch.zeros_like(share, requires_grad=True)
    optimiser = torch.optim.Adam([xi], lr=0.025, weight_decay=0.01)
    for _ in range(steps):
        theta = theta.detach().requires_grad_()
        L = losses_of(theta)
        z = torch.softmax(xi + share.log(), 0)
        loss = (z.detach() * L.log()).sum() / (z / L).sum().detach()
        theta = (theta - rate * torch.autograd.grad(loss, theta)[0]).detach()
        delta = L.log() - losses_of(theta).log()
        xi.grad = torch.autograd.grad(z, xi, delta.detach())[0]
        optimiser.step()
    return theta, xi.detach()


def gradnorm_loss(a, rows, losses, first, alpha):
    """L_grad of the paper for weights a that sum to K; rows are explicit gradients."""
    G = torch.stack([(a_t * g).norm() for a_t, g in zip(a, rows, strict=True)])
    ratio = losses / first
    r = ratio / ratio.mean()
    return (G - (G.mean() * r**alpha).detach()).abs().sum()
