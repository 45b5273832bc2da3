"""Task-based sharpness-aware steps against an obvious twin, and what they leave untouched."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from reference.task_sam import task_sam
from taskgrove.balancing import Balancer
from taskgrove.balancing.cagrad import cagrad
from taskgrove.balancing.imtl_g import imtl_g
from taskgrove.balancing.mgda import mgda
from taskgrove.balancing.nash import nash
from taskgrove.balancing.sam import sam
from taskgrove.balancing.table import BALANCERS
from taskgrove.balancing.task_sam import TaskSAM
from taskgrove.errors import TaskgroveError

METHODS = {"mean": None, "mgda": mgda, "cagrad": cagrad, "imtl_g": imtl_g, "nash": nash}


def net(K, seed=0, dropout=0.0, norm=False, dtype=torch.float64):
    """(trunk, heads, batch, targets [task row]); task 0's loss is of another scale."""
    torch.manual_seed(seed)
    middle = [nn.BatchNorm1d(5)] if norm else []
    trunk = nn.Sequential(nn.Linear(3, 5), *middle, nn.Tanh(), nn.Dropout(dropout)).to(dtype)
    heads = nn.ModuleList(nn.Linear(5, 1) for _ in range(K)).to(dtype)
    return trunk, heads, torch.randn(8, 3, dtype=dtype), torch.randn(K, 8, dtype=dtype)


def loss_of(x, y):
    def loss(trunk, heads, t):
        return (10.0 if t == 0 else 1.0) * (heads[t](trunk(x))[:, 0] - y[t]).square().mean()

    return loss


def closure(trunk, heads, x, y):
    """Runs the trunk once, and the heads asked for."""

    def losses(tasks):
        z = trunk(x)
        return [
            (10.0 if t == 0 else 1.0) * (heads[t](z)[:, 0] - y[t]).square().mean() for t in tasks
        ]

    return losses


def flat(module, grad=False):
    return torch.cat([(p.grad if grad else p.detach()).flatten() for p in module.parameters()])


def aggregate(name, share):
    def answer(G):
        M = G @ G.T
        return (share if METHODS[name] is None else METHODS[name](M, share)) @ G

    return answer


@settings(deadline=None, max_examples=30)
@given(
    st.sampled_from(sorted(METHODS)),
    st.integers(2, 4),
    st.booleans(),
    st.booleans(),
    st.integers(0, 99),
)
def test_it_is_the_twin(name, K, split, named, seed):
    trunk, heads, x, y = net(K, seed)
    share = torch.rand(K, dtype=torch.float64) + 0.2
    share /= share.sum()
    d, Q = task_sam(trunk, heads, loss_of(x, y), aggregate(name, share), 0.2, 0.05, split)
    shared = trunk if named else None
    ours = TaskSAM(name, K, shared=shared, rho_shared=0.2, rho_head=0.05, split=split)
    done = ours.step(closure(trunk, heads, x, y), share=share)
    torch.testing.assert_close(flat(trunk, grad=True), d, rtol=1e-7, atol=1e-8)
    for t in range(K):
        torch.testing.assert_close(flat(heads[t], grad=True), share[t] * Q[t])
    assert not done.fallback
    expected = torch.stack([loss_of(x, y)(trunk, heads, t) for t in range(K)])
    torch.testing.assert_close(done.losses, expected.detach())


@pytest.mark.parametrize("name", [n for n, c in BALANCERS.items() if c.needs != "losses"])
def test_without_a_radius_it_is_the_method(name):
    """At rho = 0 nothing is flat; the gradient changes in proportion to a small rho."""
    trunk, heads, x, y = net(3)
    found = {}
    for rho in (None, 0.0, 1e-7):
        trunk.zero_grad(), heads.zero_grad()
        if rho is None:
            losses = closure(trunk, heads, x, y)([0, 1, 2])
            Balancer(name, 3, shared=trunk, seed=8).step(losses)
        else:
            TaskSAM(name, 3, shared=trunk, rho_shared=rho, seed=4).step(closure(trunk, heads, x, y))
        found[rho] = torch.cat([flat(trunk, grad=True), flat(heads, grad=True)])
    torch.testing.assert_close(found[0.0], found[None], rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(found[1e-7], found[None], rtol=1e-5, atol=1e-5)


def test_the_flat_part_is_the_gradient_of_the_norm():
    """First order: (g^SAM - g) / rho = H g / |g|."""
    trunk, heads, x, y = net(1)
    parameters = list(trunk.parameters())
    (loss,) = closure(trunk, heads, x, y)([0])
    g = torch.autograd.grad(loss, parameters, create_graph=True)
    norm = torch.cat([p.flatten() for p in g]).norm()
    expected = torch.cat([p.flatten() for p in torch.autograd.grad(norm, parameters)])
    plain = torch.cat([p.detach().flatten() for p in g])
    TaskSAM("mean", 1, shared=trunk, rho_shared=1e-6, rho_head=0.0).step(
        closure(trunk, heads, x, y)
    )
    torch.testing.assert_close(
        (flat(trunk, grad=True) - plain) / 1e-6, expected, rtol=1e-3, atol=1e-5
    )


@pytest.mark.parametrize("name", ["mean", "mgda", "pcgrad", "cagrad", "imtl_g", "nash"])
def test_one_task_is_plain_sam(name):
    trunk, heads, x, y = net(1)
    both = nn.ModuleList([trunk, heads])
    losses = closure(trunk, heads, x, y)
    TaskSAM(name, 1, shared=both, rho_shared=0.3).step(losses)
    ours = flat(both, grad=True)
    both.zero_grad()
    sam(lambda: losses([0])[0], list(both.parameters()), 0.3)
    torch.testing.assert_close(ours, flat(both, grad=True))


def test_sam_is_the_definition():
    trunk, heads, x, y = net(2)
    parameters = [*trunk.parameters(), *heads.parameters()]
    losses = closure(trunk, heads, x, y)

    def mean():
        return torch.stack(losses([0, 1])).mean()

    before = [p.detach().clone() for p in parameters]
    g = torch.autograd.grad(mean(), parameters)
    norm = torch.cat([v.flatten() for v in g]).norm()
    with torch.no_grad():
        for p, v in zip(parameters, g, strict=True):
            p += 0.3 * v / norm
    expected = torch.autograd.grad(mean(), parameters)
    with torch.no_grad():
        for p, v in zip(parameters, before, strict=True):
            p.copy_(v)
    sam(mean, parameters, 0.3)
    for p, v in zip(parameters, expected, strict=True):
        torch.testing.assert_close(p.grad, v)


@pytest.mark.parametrize("way", ["task_sam", "sam"])
@pytest.mark.parametrize("fails", [False, True])
def test_weights_noise_and_statistics_come_back_bit_for_bit(way, fails):
    """Dropout is the same in all passes; BatchNorm hears the first only; so after an error."""
    trunk, heads, x, y = net(2, dropout=0.5, norm=True, dtype=torch.float32)
    model, inner = nn.ModuleList([trunk, heads]), closure(trunk, heads, x, y)
    twin = copy.deepcopy(model)
    torch.manual_seed(5)
    twin[0](x)
    noise, kept = torch.get_rng_state(), copy.deepcopy(twin.state_dict())
    calls, masks = [], []
    trunk[3].register_forward_hook(lambda _m, _x, z: masks.append(z.detach() == 0))

    def losses(tasks):
        calls.append(list(tasks))
        found = inner(tasks)
        if fails and len(calls) == 2:
            raise KeyError
        return found

    torch.manual_seed(5)
    try:
        if way == "sam":
            sam(lambda: sum(losses([0, 1])), list(model.parameters()), 0.5, list(model.buffers()))
        else:
            TaskSAM("mean", 2, shared=trunk, model=model, rho_shared=0.5).step(losses)
        assert not fails
    except KeyError:
        assert fails
    for name, value in model.state_dict().items():
        assert torch.equal(value, kept[name]), name
    assert torch.equal(torch.get_rng_state(), noise)
    assert all(torch.equal(masks[0], mask) for mask in masks[1:])
    assert len(masks) == (2 if fails or way == "sam" else 3)
    if way == "task_sam" and not fails:
        assert calls == [[0, 1], [0], [1]]


@pytest.mark.parametrize("name", ["mean", "mgda", "cagrad", "imtl_g", "nash", "pcgrad", "graddrop"])
def test_a_zero_gradient_is_no_trouble(name):
    """A task that has converged neither climbs nor spoils the others; all of them: no movement."""
    trunk, heads, x, y = net(2)
    losses = closure(trunk, heads, x, y)
    TaskSAM(name, 2, shared=trunk).step(lambda tasks: [losses([t])[0] * (t > 0) for t in tasks])
    assert flat(trunk, grad=True).isfinite().all()
    assert torch.equal(flat(heads[0], grad=True), torch.zeros(6, dtype=torch.float64))
    assert flat(heads[1], grad=True).any()
    trunk.zero_grad(), heads.zero_grad()
    TaskSAM(name, 2, shared=trunk).step(lambda tasks: [losses([t])[0] * 0 for t in tasks])
    assert not flat(trunk, grad=True).any()


def test_tiny_losses_climb_as_far():
    """No absolute epsilon: losses times 1e-30 give the gradient times 1e-30."""
    trunk, heads, x, y = net(2)
    losses, found = closure(trunk, heads, x, y), []
    for factor in (1.0, 1e-30):
        trunk.zero_grad()
        TaskSAM("mgda", 2, shared=trunk).step(
            lambda tasks, c=factor: [c * v for v in losses(tasks)]
        )
        found.append(flat(trunk, grad=True) / factor)
    torch.testing.assert_close(found[1], found[0], rtol=1e-6, atol=1e-9)


def test_an_absent_task_leaves_no_trace():
    trunk, heads, x, y = net(3)
    losses = closure(trunk, heads, x, y)
    TaskSAM("nash", 3, shared=trunk).step(losses, present=[0, 2], share=[1.0, 5.0, 2.0])
    found = flat(trunk, grad=True)
    assert all(p.grad is None for p in heads[1].parameters())
    trunk.zero_grad()
    pair = [0, 2]
    TaskSAM("nash", 2, shared=trunk).step(
        lambda tasks: losses([pair[t] for t in tasks]), share=[1.0, 2.0]
    )
    torch.testing.assert_close(found, flat(trunk, grad=True))


def test_parts_and_a_scale_give_the_joined_batch():
    """Halves of the batch, losses scaled by 2^10: the same gradient, times 2^10."""
    trunk, heads, x, y = net(2)
    halves = [closure(trunk, heads, x[part], y[:, part]) for part in (slice(0, 4), slice(4, 8))]
    parts = [lambda tasks, f=f: [loss / 2 for loss in f(tasks)] for f in halves]
    share = torch.tensor([0.5, 0.5])
    TaskSAM("cagrad", 2, shared=trunk).run(parts, [0, 1], share, scale=lambda loss: loss * 2**10)
    found = torch.cat([flat(trunk, grad=True), flat(heads, grad=True)]) / 2**10
    trunk.zero_grad(), heads.zero_grad()
    TaskSAM("cagrad", 2, shared=trunk).step(closure(trunk, heads, x, y))
    torch.testing.assert_close(found, torch.cat([flat(trunk, grad=True), flat(heads, grad=True)]))


def test_state_comes_back():
    """gradvac learns similarities; a copy that loads its state goes on alike."""
    trunk, heads, x, y = net(3)
    losses = closure(trunk, heads, x, y)
    first, second = (TaskSAM("gradvac", 3, shared=trunk, seed=s) for s in (0, 0))
    for _ in range(2):
        first.step(losses)
    second.load(first.state())
    found = []
    for one in (first, second):
        trunk.zero_grad()
        one.step(losses)
        found.append(flat(trunk, grad=True))
    assert torch.equal(*found)
    assert (second.steps, len(second.modules)) == (3, 2)


def test_what_is_not_finite_falls_back_and_is_counted(caplog):
    trunk, heads, x, y = net(2)
    losses = closure(trunk, heads, x, y)
    one = TaskSAM("mgda", 2, shared=trunk)
    weights = flat(trunk)
    done = one.step(lambda tasks: [losses([t])[0] * (torch.inf if t else 1) for t in tasks])
    assert (done.fallback, one.fallbacks) == (True, 1)
    assert "not finite" in caplog.text
    assert torch.equal(weights, flat(trunk))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"method": "uncertainty"}, "weighs losses"),
        ({"method": "cagrad", "rho_shared": -1.0}, "0 or more"),
        ({"method": "cagrd"}, 'Did you mean "cagrad"'),
    ],
)
def test_mistakes_are_sentences(arguments, words):
    with pytest.raises(TaskgroveError, match=words):
        TaskSAM(tasks=2, **arguments)


def test_large_and_small_parameters_make_one_gramian():
    """A weight that is met in pieces, and a bias that is not."""
    torch.manual_seed(0)
    trunk, heads = nn.Linear(400, 200), nn.ModuleList(nn.Linear(200, 1) for _ in range(3))
    x, y = torch.randn(4, 400), torch.randn(3, 4)
    done = TaskSAM("mgda", 3, shared=trunk).step(closure(trunk, heads, x, y))
    G = []
    for t in range(3):
        loss = loss_of(x, y)(trunk, heads, t)
        found = torch.autograd.grad(loss, list(trunk.parameters()))
        G.append(torch.cat([g.flatten() for g in found]).double())
    M = torch.stack(G) @ torch.stack(G).T
    torch.testing.assert_close(done.gramian, M, rtol=1e-5, atol=1e-8)
