"""The balancing step against autograd on one joined loss, and PCGrad against its paper."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from reference.balancing import pcgrad_rows
from taskgrove.balancing import BALANCERS, Statistic, balance
from taskgrove.balancing.pcgrad import PCGrad, pcgrad
from taskgrove.tasks.task import Task

TASKS = [Task(n, 0, n, "classes", ("x", "y"), 0.0, 1.0, "accuracy", 1.0) for n in "abc"]
SHARES = torch.tensor([0.5, 0.25, 0.25])


def problem(seed=0):
    """A shared layer, three heads and three losses on own rows."""
    torch.manual_seed(seed)
    shared, heads = nn.Linear(5, 4), nn.ModuleList(nn.Linear(4, 1) for _ in range(3))
    rows = torch.randn(3, 8, 5)

    def losses():
        return [heads[t](shared(rows[t]).tanh()).square().mean() * 10.0**t for t in range(3)]

    return shared, heads, losses


def run(name, seed=0, parts=1, step=3):
    shared, heads, losses = problem(seed)
    balancer = BALANCERS[name](TASKS, 0)
    calls = [lambda: [loss / parts for loss in losses()]] * parts
    weights, found = balance(
        balancer, calls, SHARES, torch.arange(3), step,
        shared=list(shared.parameters()), own=[list(head.parameters()) for head in heads],
    )  # fmt: skip
    return [p.grad for p in [*shared.parameters(), *heads.parameters()]], weights, found, balancer


def close(a, b):
    return all(torch.allclose(x, y, rtol=1e-4, atol=1e-6) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("name", ["mean", "uncertainty"])
def test_a_start_without_learned_weights_is_the_mean_of_the_labels(name):
    shared, heads, losses = problem()
    sum(s * loss for s, loss in zip(SHARES, losses(), strict=True)).backward()
    expected = [p.grad for p in [*shared.parameters(), *heads.parameters()]]
    assert close(run(name)[0], expected)


@pytest.mark.parametrize("name", list(BALANCERS))
def test_parts_add_up_to_the_whole_batch(name):
    whole, split = run(name), run(name, parts=4)
    assert close(whole[0], split[0])
    assert torch.allclose(whole[1], split[1], rtol=1e-4)
    assert torch.allclose(whole[2], split[2], rtol=1e-5)


@pytest.mark.parametrize("name", list(BALANCERS))
def test_one_task_alone_is_plain_training(name):
    shared, heads, losses = problem()
    balance(
        BALANCERS[name](TASKS, 0), [lambda: losses()[:1]], torch.ones(1), torch.tensor([0]), 0,
        shared=list(shared.parameters()), own=[list(heads[0].parameters())],
    )  # fmt: skip
    got = [p.grad.clone() for p in shared.parameters()]
    shared.zero_grad()
    losses()[0].backward()
    assert close(got, [p.grad for p in shared.parameters()])


@pytest.mark.parametrize("name", list(BALANCERS))
def test_two_processes_that_hold_equal_halves_reduce_to_the_whole(name):
    shared, heads, losses = problem()
    balance(
        BALANCERS[name](TASKS, 0), [lambda: [loss / 2 for loss in losses()]],
        SHARES, torch.arange(3), 3, shared=list(shared.parameters()),
        own=[list(head.parameters()) for head in heads], all_reduce=lambda t: t.mul_(2),
    )  # fmt: skip
    got = [p.grad for p in [*shared.parameters(), *heads.parameters()]]
    assert close(got, run(name)[0])


def test_uncertainty_learns_what_the_paper_says():
    _, _, losses, balancer = run("uncertainty")
    grad = balancer.modules()[0].log_variance.grad
    assert torch.allclose(grad, SHARES * (0.5 - losses), rtol=1e-4)  # s = 0: share (1/2 - L)


def test_uncertainty_settles_where_the_variance_is_the_loss():
    module = BALANCERS["uncertainty"](TASKS[:1], 0).modules()[0]
    optimiser = torch.optim.SGD(module.parameters(), lr=0.5)
    for _ in range(200):
        weights, penalty = module(Statistic(torch.tensor([0]), torch.ones(1), 0))
        optimiser.zero_grad()
        ((weights * 0.2).sum() + penalty).backward()
        optimiser.step()
    assert module.log_variance.exp().item() == pytest.approx(2 * 0.2, rel=1e-3)  # f/sigma^2: 2 L


gradients = st.integers(1, 5).flatmap(
    lambda k: st.lists(
        st.lists(st.floats(-3, 3, width=32), min_size=3, max_size=3), min_size=k, max_size=k
    )
)


@given(gradients, st.integers(0, 10))
def test_pcgrad_on_the_gramian_is_algorithm_1(rows, seed):
    G = torch.tensor(rows, dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    orders = [torch.randperm(len(G), generator=generator).tolist() for _ in G]
    weights = pcgrad(G @ G.T, torch.Generator().manual_seed(seed))
    assert torch.allclose(weights @ G, pcgrad_rows(G, orders), atol=1e-6)


def test_pcgrad_leaves_gradients_that_agree_alone():
    G = torch.eye(3, dtype=torch.float64) + 0.1
    assert torch.equal(pcgrad(G @ G.T, torch.Generator()), torch.ones(3, dtype=torch.float64))


def test_pcgrad_of_two_is_the_pinned_example():
    G = torch.tensor([[1.0, 0.0], [-1.0, 1.0]], dtype=torch.float64)
    d = pcgrad(G @ G.T, torch.Generator()) @ G
    assert torch.allclose(d, torch.tensor([0.5, 1.5], dtype=torch.float64))  # (.5,.5) + (0,1)


def test_pcgrad_repeats_its_order_at_a_step_and_changes_it_between_steps():
    torch.manual_seed(0)
    G = torch.randn(6, 4, dtype=torch.float64)

    def at(step):
        share = torch.full((6,), 1 / 6)
        return PCGrad(1)(Statistic(torch.arange(6), share, step, share, G @ G.T))[0]

    assert torch.equal(at(5), at(5))
    assert any(not torch.equal(at(5), at(step)) for step in range(6, 12))


def test_a_task_without_rows_in_a_part_adds_nothing():
    shared, heads, losses = problem()

    def part():
        return [losses()[0], torch.zeros(()), losses()[2]]

    balance(
        BALANCERS["pcgrad"](TASKS, 0), [part], SHARES, torch.arange(3), 0,
        shared=list(shared.parameters()), own=[list(head.parameters()) for head in heads],
    )  # fmt: skip
    assert heads[1].weight.grad is None
    assert all(p.grad.isfinite().all() for p in shared.parameters())
