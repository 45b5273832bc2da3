"""Steps of models that are no plain trunk with heads: right against explicit rows, or refused."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from taskgrove.balancing import Balancer
from test_whole_steps import losses_of, net


def weights(M, share):
    w = share * (1 + M.sum(1) / M.diagonal().sum())
    w[0] -= 0.8
    return w


def assert_explicit(losses, shared, way, heads=(), seen=None, **options):
    """The gradients of a step against explicit rows of `seen`, or else of the shared parameters."""
    share = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)

    def grad(loss, of):
        found = torch.autograd.grad(loss, of, retain_graph=True, allow_unused=True)
        flat = [torch.zeros_like(p) if g is None else g for g, p in zip(found, of, strict=True)]
        return torch.cat([gradient.flatten() for gradient in flat]).double()

    G = torch.stack([grad(loss, seen or shared) for loss in losses])
    w = weights(G @ G.T, share)
    expected = sum(w[t] * grad(loss, shared) for t, loss in enumerate(losses))
    mean = sum(s.item() * loss for s, loss in zip(share, losses, strict=True))
    own = grad(mean, heads) if heads else None
    given = {"backward": torch.autograd.backward} if way == "backward" else {}
    Balancer(weights, 3, shared=shared, **options).step(losses, share=share, **given)

    def left(of):
        return torch.cat([(0 * p if p.grad is None else p.grad).flatten() for p in of]).double()

    assert torch.allclose(left(shared), expected, rtol=1e-4, atol=1e-6)
    if own is not None:
        assert torch.allclose(left(heads), own, rtol=1e-4, atol=1e-6)


ADD_AND_BACKWARD = pytest.mark.parametrize("way", ["add", "backward"])
x = torch.linspace(-1, 1, 20).view(5, 4)


@ADD_AND_BACKWARD
def test_frozen_and_unused_parameters(way):
    trunk, heads = net()
    trunk = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), *trunk)
    trunk[0].requires_grad_(False)
    unused = nn.Linear(2, 2)
    shared = [*trunk[2].parameters(), *unused.parameters()]
    assert_explicit(losses_of(trunk, heads, x), shared, way, list(heads.parameters()))
    assert trunk[0].weight.grad is None
    balancer = Balancer("upgrad", 3, shared=nn.ModuleList([trunk, unused]))
    trunk.requires_grad_(False)  # later, by the loop
    z = trunk(x)
    assert not balancer.step([head(z).square().mean() for head in heads]).fallback


@ADD_AND_BACKWARD
def test_losses_of_one_tensor(way):
    trunk = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    losses = (trunk(x) - torch.arange(3)).square().mean(0).unbind()
    assert_explicit(losses, list(trunk.parameters()), way)


@ADD_AND_BACKWARD
def test_tasks_that_meet_at_several_heights(way):
    trunk, heads = net()
    middle = nn.Linear(6, 6)
    z = trunk(x)
    h = middle(z).tanh()
    losses = [head(of).square().mean() for head, of in zip(heads, (h, h, z), strict=True)]
    shared = [*trunk.parameters(), *middle.parameters()]
    assert_explicit(losses, shared, way, list(heads.parameters()))


@ADD_AND_BACKWARD
def test_a_loss_that_is_part_of_another(way):
    trunk, heads = net()
    losses = losses_of(trunk, heads, x)
    both = [losses[0], losses[1], losses[1] * losses[2]]
    if way == "backward":  # the second head lies below the place where two tasks meet
        with pytest.raises(ValueError, match="own head"):
            Balancer("upgrad", 3, shared=trunk).step(both, backward=torch.autograd.backward)
    else:
        assert_explicit(both, list(trunk.parameters()), way, list(heads.parameters()))


@pytest.mark.parametrize("options", [{"backward": torch.autograd.backward}, {"every": 2}])
def test_one_backward_pass_cannot_weigh_a_part_of_the_trunk(options):
    trunk, heads = net()
    trunk = nn.Sequential(*trunk, nn.Linear(6, 6, bias=False))
    every = options.pop("every", 1)
    balancer = Balancer("upgrad", 3, shared=trunk[0], every=every)
    with pytest.raises(ValueError, match=r"shape \[6, 6\] that is not in shared="):
        balancer.step(losses_of(trunk, heads, x), **options)
    assert_explicit(losses_of(trunk, heads, x), list(trunk[0].parameters()), "add")


@ADD_AND_BACKWARD
@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointed_trunks(way, reentrant):
    trunk, heads = net()
    lower = nn.Linear(4, 4)

    def losses():
        z = checkpoint(trunk, lower(x), use_reentrant=reentrant)
        return [head(z).square().mean() for head in heads]

    shared = [*lower.parameters(), *trunk.parameters()]
    if not reentrant:
        assert_explicit(losses(), shared, way, list(heads.parameters()))
        return
    with pytest.raises(RuntimeError, match="use_reentrant"):
        Balancer("upgrad", 3, shared=shared).step(losses())
    balancer = Balancer("upgrad", 3, level="features")
    found = losses()
    if way == "add":
        with pytest.raises(RuntimeError, match="use_reentrant"):
            balancer.step(found)
        return
    done = balancer.step(found, backward=torch.autograd.backward)
    z = trunk(lower(x))
    found = [head(z).square().mean() for head in heads]
    total = sum(w * loss for w, loss in zip(done.weights.tolist(), found, strict=True))
    for p, gradient in zip(shared, torch.autograd.grad(total, shared), strict=True):
        assert torch.allclose(p.grad, gradient, atol=1e-6)


@ADD_AND_BACKWARD
@pytest.mark.parametrize("every", [1, 2])
def test_the_features_are_one_place_for_tasks_with_rows_of_their_own(way, every):
    trunk, heads = net()
    given = {"backward": torch.autograd.backward} if way == "backward" else {}
    balancer = Balancer("upgrad", 3, level="features", every=every)
    for _ in range(every):
        trunk.zero_grad()
        features = [trunk(x.roll(t, 0)) for t in range(3)]
        losses = [head(z).square().mean() for head, z in zip(heads, features, strict=True)]
        done = balancer.step(losses, features=features, **given)
    found = [h(trunk(x.roll(t, 0))).square().mean() for t, h in enumerate(heads)]
    total = sum(w * loss for w, loss in zip(done.weights.tolist(), found, strict=True))
    shared = list(trunk.parameters())
    for p, gradient in zip(shared, torch.autograd.grad(total, shared), strict=True):
        assert torch.allclose(p.grad, gradient, atol=1e-6)
