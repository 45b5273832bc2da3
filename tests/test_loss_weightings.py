"""Weightings by losses, and GradNorm: against their twins, at rest, resumed, with tasks absent."""

import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from reference.loss_weightings import (
    dwa_weights,
    famo_run,
    geometric_mean_gradient,
    gradnorm_loss,
)
from taskgrove.balancing import dwa, famo, fixed, gls, gradnorm, imtl_l, rlw, uncertainty
from taskgrove.balancing.choice import Setup, Statistic
from taskgrove.balancing.mean import CHOICE as MEAN
from taskgrove.balancing.mean import SUM
from taskgrove.errors import TaskgroveError

CHOICES = {
    "mean": MEAN,
    "sum": SUM,
    "fixed": fixed.CHOICE,
    "uncertainty": uncertainty.CHOICE,
    "dwa": dwa.CHOICE,
    "rlw": rlw.CHOICE,
    "gls": gls.CHOICE,
    "imtl_l": imtl_l.CHOICE,
    "famo": famo.CHOICE,
    "gradnorm": gradnorm.CHOICE,
}
STATEFUL = ["uncertainty", "dwa", "imtl_l", "famo", "gradnorm"]
STEPS = 12
every = pytest.mark.parametrize("name", list(CHOICES))


def numbers(values):
    return torch.tensor(values, dtype=torch.float64)


def uniform(K):
    return torch.full((K,), 1 / K, dtype=torch.float64)


SHARES, LOSSES = numbers([0.5, 0.3, 0.2]), numbers([0.2, 1.0, 3.0])


def seen(losses, share=None, tasks=None, step=0, rows=None):
    """A statistic; the gradients are those of losses of one kind, so they grow with them."""
    losses = numbers(losses) if isinstance(losses, list) else losses
    K = len(losses)
    rows = torch.diag(losses) if rows is None else rows
    tasks = torch.arange(K) if tasks is None else torch.tensor(tasks)
    return Statistic(tasks, uniform(K) if share is None else share, step, losses, rows @ rows.T)


def quick(name, setup):
    """The choice's weighting; DWA with windows that end within a test."""
    return dwa.DWA(setup.tasks, 2) if name == "dwa" else CHOICES[name].make(setup)


def draw(present, seed=0):
    """Losses in (0.5, 1.5), and what the step makes of them, for each step; by task number."""
    generator = torch.Generator().manual_seed(seed)
    return {
        task: 0.5 + torch.rand(2, STEPS, generator=generator, dtype=torch.float64)
        for task in range(present)
    }


def play(name, weighting, draws, present, steps=range(STEPS), optimiser=None):
    """Trains a weighting on the present tasks, given in their order; the weights of each step."""
    if optimiser is None and isinstance(weighting, torch.nn.Module):
        parameters = list(weighting.parameters())
        optimiser = torch.optim.Adam(parameters, lr=0.1) if parameters else None
    found = []
    for step in steps:
        before, after = (torch.stack([draws[t][n][step] for t in present]) for n in (0, 1))
        share = numbers([t + 1.0 for t in present])
        statistic = seen(before, share / share.sum(), present, step)
        weights, objective = weighting(statistic)
        found.append(weights)
        assert not weights.requires_grad
        if objective is not None and optimiser is not None:
            optimiser.zero_grad(set_to_none=True)
            objective.backward()
            optimiser.step()
        if CHOICES[name].again:
            weighting.observe(statistic.tasks, after)
    return torch.stack(found)


def state_of(weighting):
    """{name: values}; one parameter a task is joined to one row of values."""
    rows = {}
    for name, value in weighting.state_dict().items():
        rows.setdefault(name.split(".")[0], []).append(value.clone().reshape(-1))
    return {name: torch.cat(values) for name, values in rows.items()}


# what all of them have


@every
def test_equal_tasks_weigh_equally_and_sum_to_one(name):
    weights, _ = CHOICES[name].make(Setup(3))(seen([1.0, 1.0, 1.0]))
    if name == "rlw":
        assert weights.sum().item() == pytest.approx(1)
    else:
        size = 3.0 if name == "sum" else 1.0
        assert torch.allclose(weights, size * uniform(3))


@every
def test_weights_follow_task_numbers_in_any_order(name):
    draws, setup = draw(4), Setup(4, numbers=[True, False, False, True])
    straight = play(name, quick(name, setup), draws, [0, 1, 2, 3])
    turned = play(name, quick(name, setup), draws, [2, 0, 3, 1])
    assert torch.allclose(turned, straight[:, [2, 0, 3, 1]], rtol=1e-4)


@pytest.mark.parametrize("name", STATEFUL)
def test_a_task_that_is_absent_for_a_while_keeps_its_state(name):
    draws = draw(4)
    weighting = quick(name, Setup(4))
    parameters = list(weighting.parameters())
    adam = torch.optim.Adam(parameters, lr=0.1) if parameters else None
    play(name, weighting, draws, [0, 1, 2, 3], range(5), optimiser=adam)
    before = state_of(weighting)
    play(name, weighting, draws, [3, 0], range(5, 10), optimiser=adam)
    after = state_of(weighting)
    assert all(torch.equal(after[key][[1, 2]], before[key][[1, 2]]) for key in before)
    assert any(not torch.equal(after[key][[0, 3]], before[key][[0, 3]]) for key in before)


@pytest.mark.parametrize("name", STATEFUL)
def test_resumed_is_uninterrupted(name):
    draws = draw(3)
    whole = play(name, quick(name, Setup(3)), draws, [0, 1, 2])
    if list(quick(name, Setup(3)).parameters()):
        first, adam = stopped(name, draws, lambda p: torch.optim.Adam(p, lr=0.1))
        later = quick(name, Setup(3))
        later.load_state_dict(first.state_dict())
        again = torch.optim.Adam(later.parameters(), lr=0.1)
        again.load_state_dict(adam.state_dict())
    else:
        first, _ = stopped(name, draws, lambda _: None)
        later, again = quick(name, Setup(3)), None
        later.load_state_dict(first.state_dict())
    rest = play(name, later, draws, [0, 1, 2], range(7, STEPS), optimiser=again)
    assert torch.equal(rest, whole[7:])
    fresh = play(name, quick(name, Setup(3)), draws, [0, 1, 2], range(7, STEPS))
    assert not torch.equal(fresh, whole[7:])


def stopped(name, draws, make_optimiser):
    """A weighting after seven steps, and its optimiser."""
    weighting = quick(name, Setup(3))
    optimiser = make_optimiser(list(weighting.parameters()))
    play(name, weighting, draws, [0, 1, 2], range(7), optimiser=optimiser)
    return weighting, optimiser


HARD = [
    [0.0, 0.0, 0.0],
    [0.0, 1.0, 2.0],
    [-1.0, 1.0, 2.0],
    [-3.0, -1.0, -2.0],
    [1e-30, 1.0, 1e30],
    [1e-12, 1e12, 1.0],
]


@every
@pytest.mark.parametrize("losses", HARD)
def test_hard_losses_give_finite_weights_and_objectives(name, losses):
    weighting = quick(name, Setup(3))
    for step in range(6):
        statistic = seen(losses, step=step)
        weights, objective = weighting(statistic)
        assert weights.isfinite().all()
        assert (weights >= 0).all()
        assert weights.any()
        if objective is not None:
            objective.backward()
            assert all(p.grad is None or p.grad.isfinite() for p in weighting.parameters())
        if CHOICES[name].again:
            weighting.observe(statistic.tasks, statistic.losses.flip(0))
    assert torch.equal(statistic.losses, numbers(losses))


# each one


def test_mean_and_sum():
    share = numbers([0.5, 0.25, 0.25])
    statistic = seen([1.0, 2.0, 3.0], share)
    assert torch.equal(CHOICES["mean"].make(Setup(3))(statistic)[0], share)
    assert torch.equal(CHOICES["sum"].make(Setup(3))(statistic)[0], 3 * share)


def test_fixed_weights_multiply_shares_and_sum_to_one():
    weighting = fixed.given([3.0, 1.0, 0.0])(Setup(3))
    share = numbers([0.25, 0.75])
    weights, _ = weighting(seen([1.0, 1.0], share, tasks=[1, 0]))
    assert torch.allclose(weights, numbers([0.25, 2.25]) / 2.5)
    assert torch.equal(weighting(seen([1.0], tasks=[2]))[0], numbers([0.0]))


@pytest.mark.parametrize("weights", [(), (0.0, 0.0), (1.0, -1.0), (1.0, math.nan)])
def test_fixed_weights_that_make_no_sense_are_refused(weights):
    with pytest.raises(TaskgroveError, match="expected finite numbers of 0 or more"):
        fixed.Fixed(weights)


def test_fixed_weights_are_one_for_each_task():
    with pytest.raises(TaskgroveError, match="2 numbers for 3 tasks; give one for each task"):
        fixed.given([1.0, 2.0])(Setup(3))


positive = st.floats(1e-3, 1e3)


def lists(K):
    return st.tuples(*[st.lists(positive, min_size=K, max_size=K)] * 2)


@given(st.integers(1, 5).flatmap(lists))
def test_gls_is_the_gradient_of_the_geometric_mean(drawn):
    losses, share = map(numbers, drawn)
    share = share / share.sum()
    assert torch.allclose(gls.gls(losses, share), geometric_mean_gradient(losses, share))


def test_gls_of_two_by_hand():
    # sqrt(1 * 4) = 2: w = (2 / 1, 2 / 4) / 2
    assert torch.allclose(gls.gls(numbers([1.0, 4.0]), uniform(2)), numbers([1.0, 0.25]))


@given(st.floats(1e-4, 1e4), st.floats(1e-4, 1e4))
def test_gls_keeps_its_direction_when_one_loss_is_rescaled(loss, factor):
    losses, scale = numbers([1.0, loss, 2.0]), numbers([1.0, factor, 1.0])
    plain, scaled = gls.gls(losses, uniform(3)), scale * gls.gls(scale * losses, uniform(3))
    assert torch.allclose(plain / plain.sum(), scaled / scaled.sum())
    assert torch.allclose(plain / plain.sum(), (1 / losses) / (1 / losses).sum())  # of sum log L


@pytest.mark.parametrize("losses", [[1.0, 0.0], [1.0, -1.0], [-1.0, -2.0]])
def test_gls_falls_back_to_the_mean(losses):
    share = numbers([0.25, 0.75])
    assert torch.equal(gls.gls(numbers(losses), share), share)


@given(st.integers(1, 4), st.integers(1, 3), st.integers(0, 100))
def test_dwa_is_the_formula(window, K, seed):
    generator = torch.Generator().manual_seed(seed)
    history = 0.1 + torch.rand(4 * window + 1, K, generator=generator, dtype=torch.float64)
    share = torch.rand(K, generator=generator, dtype=torch.float64) + 0.1
    share /= share.sum()
    weighting = dwa.DWA(K, window)
    got = torch.stack([weighting(seen(losses, share))[0] for losses in history])
    assert torch.allclose(got, dwa_weights(history, window, share), rtol=1e-5)
    assert torch.allclose(got[: 2 * window], share.expand(2 * window, K))


def test_dwa_of_two_by_hand():
    weighting = dwa.DWA(2, window=1)
    for losses in ([2.0, 4.0], [1.0, 4.0]):
        weighting(seen(losses))
    weights, _ = weighting(seen([9.0, 9.0]))  # r = (1/2, 1), over the temperature 2
    assert torch.allclose(2 * weights, 2 * torch.softmax(numbers([0.25, 0.5]), 0))


def test_dwa_of_a_loss_that_explodes_is_that_task_alone():
    weighting = dwa.DWA(2, window=1)
    for losses in ([1e-30, 1.0], [1e30, 1.0]):
        weighting(seen(losses))
    assert torch.allclose(weighting(seen([1.0, 1.0]))[0], numbers([1.0, 0.0]))


def test_dwa_goes_on_where_an_absent_task_stopped():
    weighting = dwa.DWA(2, window=1)
    for losses in ([2.0, 4.0], [1.0, 4.0]):
        weighting(seen(losses))
    for loss in (5.0, 50.0):
        weighting(seen([loss], tasks=[1]))
    weights, _ = weighting(seen([1.0, 1.0]))  # r = (1/2, 10)
    assert torch.allclose(weights, torch.softmax(numbers([0.25, 5.0]), 0))


def test_rlw_repeats_at_a_seed_and_step_and_changes_between_them():
    def at(seed, step):
        return CHOICES["rlw"].make(Setup(4, seed))(seen([1.0] * 4, step=step))[0]

    assert torch.equal(at(3, 7), at(3, 7))
    assert not torch.equal(at(3, 7), at(3, 8))
    assert not torch.equal(at(3, 7), at(4, 7))


def test_rlw_is_the_mean_in_expectation():
    weighting = CHOICES["rlw"].make(Setup(3))
    weights = torch.stack([weighting(seen([1.0] * 3, step=step))[0] for step in range(3000)])
    assert torch.allclose(weights.mean(0), uniform(3), atol=0.02)
    assert weights.std(0).min() > 0.1


def test_rlw_multiplies_by_shares():
    weighting = CHOICES["rlw"].make(Setup(3))
    product = SHARES * weighting(seen([1.0] * 3))[0]
    assert torch.allclose(weighting(seen([1.0] * 3, SHARES))[0], product / product.sum())


def test_rlw_draws_the_same_for_a_task_whoever_is_present():
    weighting = CHOICES["rlw"].make(Setup(3))
    whole, _ = weighting(seen([1.0] * 3, step=5))
    part, _ = weighting(seen([1.0] * 2, tasks=[2, 0], step=5))
    assert torch.allclose(part, whole[[2, 0]] / whole[[2, 0]].sum())


def rest(weighting, losses, share, steps=800):
    """The weights where gradient descent on the objective comes to rest."""
    optimiser = torch.optim.SGD(weighting.parameters(), lr=0.2)
    for _ in range(steps):
        _, objective = weighting(seen(losses, share))
        optimiser.zero_grad()
        objective.backward()
        optimiser.step()
    return weighting(seen(losses, share))[0]


def test_uncertainty_at_its_start():
    weighting = uncertainty.CHOICE.make(Setup(3, numbers=[True, False, False]))
    weights, objective = weighting(seen(LOSSES, SHARES))
    f = numbers([0.5, 1.0, 1.0])
    assert torch.allclose(weights, SHARES * f)
    assert objective.item() == pytest.approx((SHARES * f * LOSSES).sum().item())
    objective.backward()
    slope = torch.stack([s.grad for s in weighting.s]).double()
    assert torch.allclose(slope, SHARES * (0.5 - f * LOSSES))


def test_uncertainty_at_rest_weighs_by_half_the_inverse_loss():
    weighting = uncertainty.CHOICE.make(Setup(3, numbers=[True, False, False]))
    weights = rest(weighting, LOSSES, SHARES)
    assert torch.allclose(weights, SHARES / (2 * LOSSES), rtol=1e-4)
    variance = torch.stack([s.exp() for s in weighting.s]).double()
    assert torch.allclose(variance, 2 * numbers([0.5, 1.0, 1.0]) * LOSSES, rtol=1e-4)


def test_imtl_l_at_its_start():
    weighting = imtl_l.IMTLL(3)
    weights, objective = weighting(seen(LOSSES, SHARES))
    assert torch.equal(weights, SHARES)
    objective.backward()
    slope = torch.stack([s.grad for s in weighting.s]).double()
    assert torch.allclose(slope, SHARES * (LOSSES - 1))


def test_imtl_l_at_rest_makes_every_loss_one():
    weights = rest(imtl_l.IMTLL(3), LOSSES, SHARES)
    assert torch.allclose(weights * LOSSES, SHARES, rtol=1e-4)


@pytest.mark.parametrize("name", ["uncertainty", "imtl_l"])
def test_a_loss_that_is_not_above_zero_moves_no_scale(name):
    weighting = CHOICES[name].make(Setup(2))
    weighting(seen([0.0, 3.0]))[1].backward()
    assert weighting.s[0].grad == 0
    assert weighting.s[1].grad != 0


TARGETS = torch.eye(3, dtype=torch.float64) * numbers([1.0, 2.0, 3.0])
SCALES = numbers([1.0, 10.0, 0.1])


def toy_losses(theta):
    """Three quadratics of different size that disagree."""
    return SCALES * (0.5 + ((theta - TARGETS) ** 2).sum(1))


@pytest.mark.parametrize("share", [uniform(3), SHARES])
def test_famo_is_algorithm_1(share):
    weighting, theta, rate = famo.FAMO(3), torch.zeros(3, dtype=torch.float64), 0.05
    expected, logits = famo_run(theta, toy_losses, share, 20, rate)
    for step in range(20):
        theta = theta.detach().requires_grad_()
        losses = toy_losses(theta)
        weights, _ = weighting(seen(losses.detach(), share, step=step))
        (slope,) = torch.autograd.grad((weights * losses).sum(), theta)
        theta = (theta - rate * slope).detach()
        weighting.observe(torch.arange(3), toy_losses(theta))
    assert torch.allclose(theta, expected, rtol=1e-5)
    assert torch.allclose(weighting.xi.double(), logits, rtol=1e-4)
    assert logits.abs().min() > 0.01


def test_famo_starts_with_inverse_losses():
    weights, _ = famo.FAMO(2)(seen([1.0, 3.0]))
    assert torch.allclose(weights, numbers([0.75, 0.25]))  # (1, 1/3), sum 1


def test_famo_takes_weight_from_the_task_that_fell_most():
    weighting = famo.FAMO(2)
    weighting(seen([1.0, 1.0]))
    weighting.observe(torch.arange(2), numbers([0.5, 0.9]))
    assert torch.allclose(weighting.xi, torch.tensor([-0.025, 0.025]))  # Adam's first step
    weights, _ = weighting(seen([1.0, 1.0]))
    assert weights[0] < weights[1]


def test_famo_takes_one_step_of_its_own_for_each_of_the_models():
    weighting = famo.FAMO(2)
    weighting(seen([1.0, 1.0]))
    weighting.observe(torch.arange(2), numbers([0.5, 0.9]))
    before = state_of(weighting)
    weighting.observe(torch.arange(2), numbers([0.5, 0.9]))
    assert all(torch.equal(value, before[key]) for key, value in state_of(weighting).items())


@pytest.mark.parametrize("losses", [[math.nan, 1.0], [math.inf, 1.0], [0.0, 0.0]])
def test_famo_learns_nothing_from_losses_that_say_nothing(losses):
    weighting = famo.FAMO(2)
    weighting.observe(torch.arange(2), numbers([0.5, 0.9]))  # no step under way
    weighting(seen([1.0, 1.0]))
    weighting.observe(torch.arange(2), numbers(losses))
    assert not any(value.any() for value in weighting.state_dict().values())


@given(st.integers(1, 4), st.integers(0, 100))
def test_gradnorm_is_the_papers_objective_over_its_mean_norm(K, seed):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(K, 5, generator=generator, dtype=torch.float64)
    first, losses = 0.5 + torch.rand(2, K, generator=generator, dtype=torch.float64)
    weighting = gradnorm.GradNorm(K)
    weighting(seen(first, rows=rows))
    with torch.no_grad():
        for v in weighting.v:
            v.copy_(torch.randn((), generator=generator))
    weights, objective = weighting(seen(losses, rows=rows))
    v = torch.stack(list(weighting.v)).detach().double().requires_grad_()
    a = K * torch.softmax(v, 0)
    assert torch.allclose(K * weights, a)
    expected = gradnorm_loss(a, rows, losses, first, 1.5)
    size = K * (a.detach() * rows.norm(dim=1)).mean()
    assert torch.allclose(size * objective, expected, rtol=1e-5, atol=1e-5)
    objective.backward()
    slope = torch.stack([v.grad for v in weighting.v]).double()
    assume(((expected / size).abs() > 1e-4).all())  # |x| has no slope at 0
    assert torch.allclose(slope, torch.autograd.grad(expected / size, v)[0], atol=1e-5)


def settled(choice, losses, norms, share, rate=0.02, steps=1000):
    """Weights after training GradNorm on constant norms; the first losses are all 1."""
    rows = torch.diag(norms)
    choice(seen(torch.ones_like(losses), share, rows=rows))
    optimiser = torch.optim.SGD(choice.parameters(), lr=rate)
    for _ in range(steps):
        _, objective = choice(seen(losses, share, rows=rows))
        optimiser.zero_grad()
        objective.backward()
        optimiser.step()
    return choice(seen(losses, share, rows=rows))[0]


def test_gradnorm_with_alpha_zero_makes_norms_equal():
    norms = numbers([1.0, 4.0, 0.5])
    weights = settled(gradnorm.GradNorm(3, alpha=0.0), LOSSES, norms, SHARES)
    weighted = weights / SHARES * norms
    assert torch.allclose(weighted, weighted.mean().expand(3), rtol=0.05)
    assert weights.sum().item() == pytest.approx(1)


def test_gradnorm_gives_the_slower_task_the_larger_norm():
    weights = settled(gradnorm.GradNorm(2, 1.0), numbers([0.5, 1.0]), numbers([1.0, 1.0]), None)
    assert torch.allclose(weights, numbers([1 / 3, 2 / 3]), rtol=0.05)  # norms as r: 1 to 2


def test_gradnorm_without_gradients_has_nothing_to_minimise():
    weights, objective = gradnorm.GradNorm(2)(seen([1.0, 1.0], rows=torch.zeros(2, 3).double()))
    assert objective is None
    assert torch.allclose(weights, uniform(2))


def test_gradnorm_remembers_the_first_loss_above_zero():
    weighting = gradnorm.GradNorm(3)
    weighting(seen([0.0, 2.0]))
    weighting(seen([5.0, 3.0, 7.0]))
    assert weighting.first.tolist() == [5.0, 2.0, 7.0]


@pytest.mark.parametrize("losses", [[0.0, 0.0, 0.0], [-1.0, -2.0, -3.0], [-1.0, 1.0, 1.0]])
def test_gradnorm_bears_losses_that_fall_to_zero_and_under(losses):
    weighting = gradnorm.GradNorm(3)
    weights, _ = weighting(seen([1.0, 1.0, 1.0], SHARES))
    assert torch.allclose(weights, SHARES)
    _, objective = weighting(seen(losses, SHARES, rows=torch.eye(3).double()))
    # G_t = 1; r = 1 where no loss is above 0, else of (0, 1, 1) over its mean 1/2
    r = numbers([0.0, 2.0, 2.0]) if max(losses) > 0 else numbers([1.0, 1.0, 1.0])
    assert objective.item() == pytest.approx((SHARES * (1 - r**1.5).abs()).sum().item())
    objective.backward()
    assert all(v.grad.isfinite() for v in weighting.v)
