"""Weightings that see the Gramian alone, against their papers on explicit rows."""

import math
from itertools import permutations, product

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from reference import gramian_weightings as twin
from taskgrove.balancing.aligned_mtl import aligned_mtl
from taskgrove.balancing.choice import Setup, Statistic
from taskgrove.balancing.con_fig import con_fig
from taskgrove.balancing.fairgrad import allocate, fairgrad
from taskgrove.balancing.gradvac import CHOICE as GRADVAC
from taskgrove.balancing.gradvac import gradvac
from taskgrove.balancing.imtl_g import imtl_g
from taskgrove.balancing.nash import bargain, nash
from taskgrove.balancing.pcgrad import CHOICE as PCGRAD
from taskgrove.balancing.pcgrad import pcgrad, random_orders


def first_orders(K):
    return random_orders(K, 0, 0)


def pcgrad_once(M, share):
    return pcgrad(M, share, first_orders(len(M)))


def gradvac_once(M, share):
    return gradvac(M, share, first_orders(len(M)), torch.full_like(M, 0.3))[0]


WEIGHTINGS = {
    "nash": nash,
    "fairgrad": fairgrad,
    "aligned_mtl": aligned_mtl,
    "con_fig": con_fig,
    "imtl_g": imtl_g,
    "pcgrad": pcgrad_once,
    "gradvac": gradvac_once,
}
EQUILIBRIA = ["nash", "fairgrad"]  # M w > 0 and w sums to 1


def vector(*numbers):
    return torch.tensor(numbers, dtype=torch.float64)


def uniform(K):
    return torch.full((K,), 1 / K, dtype=torch.float64)


def random_rows(K, n, seed, spread=0.0, common=0.0):
    rng = np.random.default_rng(seed)
    G = rng.normal(size=(K, n)) + common * rng.normal(size=n)
    return torch.from_numpy(G * 10 ** rng.uniform(-spread, spread, size=(K, 1)))


def random_share(K, seed):
    share = np.random.default_rng(seed + 1).uniform(0.1, 1, K)
    return torch.from_numpy(share / share.sum())


def close(a, b, tolerance=1e-9):
    return float((a - b).abs().max()) <= tolerance * float(b.abs().max())


tasks, seeds = st.integers(2, 6), st.integers(0, 2**16)


# Nash-MTL and FairGrad


@given(st.integers(1, 20), seeds, st.sampled_from([0.0, 3.0, 20.0]), st.booleans())
@settings(deadline=None, max_examples=60)
def test_nash_solves_its_equation_to_rounding_with_rows_over_twelve_decades(K, seed, common, even):
    G = random_rows(K, 50, seed, spread=6, common=common).numpy()
    p = K * (uniform(K) if even else random_share(K, seed)).numpy()
    M = G @ G.T
    a = bargain(M, p)
    assert (a > 0).all()
    assert np.abs(a * (M @ a) - p).max() <= 1e-8


@given(seeds)
@settings(deadline=None, max_examples=60)
def test_nash_with_opposed_groups_of_rows_solves_its_equation(seed):
    G = random_rows(20, 50, seed, spread=6, common=0).numpy()
    sides = np.random.default_rng(seed).choice([-1, 1], size=20)
    G += 10 * np.linalg.norm(G, axis=1, keepdims=True) * sides[:, None] * np.eye(50)[:1]
    M = G @ G.T
    a = bargain(M, np.ones(20))
    assert np.abs(a * (M @ a) - 1).max() <= 1e-8


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0, 4.0])
@given(st.integers(1, 20), seeds, st.booleans())
@settings(deadline=None, max_examples=30)
def test_fairgrad_solves_its_equation(alpha, K, seed, even):
    G = random_rows(K, 50, seed, spread=6 if 1 <= alpha <= 2 else 2).numpy()
    p = K * (uniform(K) if even else random_share(K, seed)).numpy()
    M = G @ G.T
    M /= M.max()
    w = allocate(M, p, alpha)
    assert (w > 0).all()
    assert np.abs((M @ w) * (w / p) ** (1 / alpha) - 1).max() <= 1e-7


@given(tasks, seeds)
@settings(deadline=None, max_examples=60)
def test_fairgrad_at_alpha_one_is_nash(K, seed):
    G, share = random_rows(K, 8, seed, spread=3), random_share(K, seed)
    assert close(fairgrad(G @ G.T, share, alpha=1.0), nash(G @ G.T, share))


@pytest.mark.parametrize(("alpha", "seed"), [(1.0, 0), (1.0, 1), (2.0, 2), (0.5, 3)])
def test_equilibria_against_one_task_at_a_time(alpha, seed):
    G, share = random_rows(3, 6, seed), random_share(3, seed)
    expected = twin.bargain_by_coordinates(G @ G.T, 3 * share, alpha)
    got = nash(G @ G.T, share) if alpha == 1 else fairgrad(G @ G.T, share, alpha)
    assert close(got, expected / expected.sum(), 1e-7)


def test_nash_maximises_the_product_of_the_tasks_gains_on_the_ball():
    G, share = random_rows(3, 5, 0), vector(0.2, 0.3, 0.5)
    d = nash(G @ G.T, share) @ G
    best = (share * (G @ (d / d.norm())).log()).sum()
    for step in random_rows(300, 5, 1) * 0.1:
        near = d / d.norm() + step
        gains = G @ (near / near.norm())
        assert (gains <= 0).any() or (share * gains.log()).sum() < best


def test_two_gradients_of_nash_by_hand():
    """M a = 1 / a with cosine c is a_i = 1 / (r_i sqrt(1 + c)): the mean of the unit gradients."""
    G = vector([3, 0], [-1, 1])
    assert close(nash(G @ G.T, uniform(2)), vector(1 / 3, 1 / math.sqrt(2)) / (1 / 3 + 0.5**0.5))


def test_orthogonal_gradients_of_fairgrad_by_hand():
    """r^2 w = w^(-1/alpha), so w = r^(-2 alpha / (1 + alpha)): r^(-4/3) at the default alpha, 2."""
    assert close(fairgrad(vector([1, 0], [0, 64]), uniform(2)), vector(16, 1) / 17)


@pytest.mark.parametrize("alpha", [0.0, -1.0, float("nan")])
def test_fairgrad_says_which_alpha_it_takes(alpha):
    with pytest.raises(ValueError, match="must be above 0"):
        fairgrad(vector([1, 0], [0, 1]), uniform(2), alpha)


def test_a_large_alpha_equalises_the_gains():
    G = random_rows(4, 10, 5)
    gains = [G @ (fairgrad(G @ G.T, uniform(4), alpha) @ G) for alpha in (1.0, 10.0, 100.0)]
    spread = [float(gain.max() / gain.min()) for gain in gains]
    assert spread[0] > spread[1] > spread[2]
    assert spread[2] < 1.05


@pytest.mark.parametrize("name", EQUILIBRIA)
@pytest.mark.parametrize(
    "G",
    [
        [[2.0, 0.0], [-1.0, 0.0]],
        [[1.0, 0.0], [-0.5, 0.75**0.5], [-0.5, -(0.75**0.5)]],
        [[1.0, 2.0, 0.0], [-3.0, 1.0, 0.0], [1.0, -4.0, 0.0], [0.5, 0.5, 1e-7]],
    ],
)
def test_where_no_direction_improves_all_tasks_d_is_almost_zero(name, G):
    rows = vector(*G)
    w = WEIGHTINGS[name](rows @ rows.T, uniform(len(rows)))
    assert float((w @ rows).norm()) <= 1e-5 * float(w @ rows.norm(dim=1))
    assert (w >= 0).all()


# Aligned-MTL, ConFIG, IMTL-G


@given(tasks, st.integers(1, 8), seeds)
@settings(deadline=None, max_examples=60)
def test_aligned_mtl_against_the_singular_value_decomposition(K, n, seed):
    G, share = random_rows(K, n, seed, spread=0.5), random_share(K, seed)
    sigma = torch.linalg.svdvals(G)
    kept = (sigma**2)[: min(K, n)]
    assume((abs(kept / kept[0] / (K * 2.0**-23) - 1) > 0.5).all())
    expected = twin.aligned_rows(G, share)
    assert close(aligned_mtl(G @ G.T, share) @ G, expected, 1e-7)


def test_orthogonal_gradients_of_aligned_mtl_by_hand():
    """l = (1, 4), so B = diag(1, 1/2): both gradients get the length of the shorter."""
    assert close(aligned_mtl(vector([1, 0], [0, 4]), uniform(2)), vector(0.5, 0.25))


@given(tasks, seeds, st.booleans())
@settings(deadline=None, max_examples=60)
def test_con_fig_against_the_pseudo_inverse_of_the_rows(K, seed, enough):
    G, share = random_rows(K, 8 if enough else 2, seed, spread=3), random_share(K, seed)
    units = G / G.norm(dim=1, keepdim=True)
    cosines = torch.linalg.svdvals(units)
    assume(float(cosines[: min(G.shape)].min()) > 1e-2)
    expected = twin.con_fig_rows(G, share)
    got = con_fig(G @ G.T, share) @ G
    assert float((got - expected).norm()) <= 1e-8 * float(share @ G.norm(dim=1))


@given(tasks, seeds)
@settings(deadline=None, max_examples=60)
def test_con_fig_has_cosines_in_the_proportions_of_share(K, seed):
    G, share = random_rows(K, 30, seed, spread=3), random_share(K, seed)
    cosines = (G @ (con_fig(G @ G.T, share) @ G)) / G.norm(dim=1)
    assert (cosines > 0).all()
    assert close(cosines / cosines.sum(), share, 1e-7)


def test_orthogonal_gradients_of_con_fig_by_hand():
    """g_u = (1, 1) / sqrt(2); the projections are 1 / sqrt(2) and 2 / sqrt(2): d = (3/4, 3/4)."""
    assert close(con_fig(vector([1, 0], [0, 4]), uniform(2)), vector(0.75, 0.375))


def test_con_fig_gives_opposed_gradients_their_limit():
    near = vector([2, 0], [-1, 1e-3])
    opposed = vector([2, 0], [-1, 0])
    w = con_fig(opposed @ opposed.T, uniform(2))
    assert close(w, con_fig(near @ near.T, uniform(2)), 1e-4)
    assert (w @ opposed).norm() < 1e-12


@given(tasks, seeds)
@settings(deadline=None, max_examples=60)
def test_imtl_g_against_its_closed_form_and_its_property(K, seed):
    G = random_rows(K, 10, seed, spread=0.3)
    expected = twin.imtl_g_rows(G)
    assume(float(expected.abs().max()) < 100)
    got = imtl_g(G @ G.T, random_share(K, seed))
    assert close(got, expected, 1e-6)
    assert float(got.sum()) == pytest.approx(1)
    projections = G @ (got @ G) / G.norm(dim=1)
    assert close(projections, projections.mean().expand(K), 1e-6) or projections.abs().max() < 1e-6


def test_orthogonal_gradients_of_imtl_g_by_hand():
    """Projections a_1 and 2 a_2 are equal and a_1 + a_2 = 1."""
    assert close(imtl_g(vector([1, 0], [0, 4]), uniform(2)), vector(2, 1) / 3)


def test_imtl_g_of_opposed_gradients_cancels_them():
    G = vector([2, 0], [-1, 0])
    assert close(imtl_g(G @ G.T, uniform(2)), vector(1, 2) / 3, 1e-6)


# PCGrad and GradVac


@given(tasks, st.integers(1, 8), seeds)
@settings(deadline=None, max_examples=60)
def test_pcgrad_against_algorithm_1(K, n, seed):
    G, share = random_rows(K, n, seed, spread=2), random_share(K, seed)
    orders = random_orders(K, seed, 7)
    expected = twin.pcgrad_rows(G, share, orders.tolist())
    got = pcgrad(G @ G.T, share, orders) @ G
    assert float((got - expected).norm()) <= 1e-10 * float(share @ G.norm(dim=1))


def test_two_conflicting_gradients_of_pcgrad_by_hand():
    """p_1 = g_1 + g_2 / 2 and p_2 = g_2 + g_1."""
    G = vector([1, 0], [-1, 1])
    assert pcgrad(G @ G.T, uniform(2), torch.tensor([[1], [0]])).tolist() == [1.0, 0.75]


def test_pcgrad_over_many_steps_is_the_mean_over_all_orders():
    G = vector([1.0, 0.2, 0.0], [-0.8, 1.0, 0.3], [-0.5, -0.9, 1.0])
    M, share = G @ G.T, vector(0.5, 0.2, 0.3)
    each = [list(permutations(set(range(3)) - {i})) for i in range(3)]
    every = [torch.tensor(orders) for orders in product(*each)]
    assert len(every) == math.factorial(2) ** 3
    found = torch.stack([pcgrad(M, share, orders) for orders in every])
    assert len({tuple(w.tolist()) for w in found}) > 1
    rows = torch.stack([twin.pcgrad_rows(G, share, orders.tolist()) for orders in every])
    assert close(found.mean(0) @ G, rows.mean(0))
    weigh = PCGRAD.make(Setup(3, seed=5))
    steps = [ask(weigh, M, share, step) for step in range(1000)]
    error = found.std(0) / 1000**0.5
    assert ((torch.stack(steps).mean(0) - found.mean(0)).abs() <= 5 * error + 1e-12).all()


def ask(weighting, M, share, step, tasks=None):
    here = torch.arange(len(M)) if tasks is None else torch.tensor(tasks)
    w, objective = weighting(Statistic(here, share, step, torch.ones(len(M)).double(), M))
    assert objective is None
    return w


def test_orders_are_uniform_and_come_from_seed_and_step():
    drawn = [random_orders(4, 3, step) for step in range(1200)]
    assert all(sorted([i, *row]) == [0, 1, 2, 3] for o in drawn for i, row in enumerate(o.tolist()))
    counts = {}
    for orders in drawn:
        counts[tuple(orders[2].tolist())] = counts.get(tuple(orders[2].tolist()), 0) + 1
    assert len(counts) == 6
    assert all(abs(n - 200) < 70 for n in counts.values())  # 5.4 standard deviations
    assert torch.equal(random_orders(4, 3, 8), drawn[8])
    assert any(not torch.equal(random_orders(4, 4, step), drawn[step]) for step in range(5))


@given(tasks, seeds)
@settings(deadline=None, max_examples=25)
def test_gradvac_against_explicit_rows_over_steps(K, seed):
    share, beta = random_share(K, seed), 0.3
    target, state = torch.zeros(K, K).double(), torch.zeros(K, K).double()
    for step in range(5):
        G = random_rows(K, 12, seed + step, spread=2, common=1.0)
        orders = random_orders(K, seed, step)
        expected = twin.gradvac_rows(G, share, orders.tolist(), target, beta)
        w, state = gradvac(G @ G.T, share, orders, state, beta)
        assert float((w @ G - expected).norm()) <= 1e-9 * float(w.abs() @ G.norm(dim=1))
        assert close(state, target, 1e-9)


@given(tasks, seeds)
@settings(deadline=None, max_examples=60)
def test_gradvac_begins_as_pcgrad(K, seed):
    G, share = random_rows(K, 8, seed), random_share(K, seed)
    orders = random_orders(K, seed, 0)
    w, _ = gradvac(G @ G.T, share, orders, torch.zeros(K, K).double())
    assert close(w, pcgrad(G @ G.T, share, orders))


def test_gradvac_brings_two_gradients_to_the_target_cosine():
    """From cosine 0 to 0.6: p_1 = g_1 + (|g_1| 0.6 / 0.8 / |g_2|) g_2."""
    M = vector([4, 0], [0, 1])
    phihat = torch.full((2, 2), 0.6).double()
    w, after = gradvac(M, uniform(2), torch.tensor([[1], [0]]), phihat)
    assert close(w, vector((1 + 0.375) / 2, (1 + 1.5) / 2), 1e-7)
    assert float(after[0, 1]) == pytest.approx(0.99 * 0.6)
    assert float(phihat[0, 1]) == pytest.approx(0.6)


def test_gradvac_keeps_phihat_by_task_number_and_leaves_absent_tasks_alone():
    weighting = GRADVAC.make(Setup(4, seed=1))
    G = random_rows(2, 5, 0, common=2.0)
    ask(weighting, G @ G.T, uniform(2), 0, tasks=[3, 1])
    moved = weighting.phihat.nonzero().tolist()
    assert moved == [[1, 3], [3, 1]]
    cosine = G[0] @ G[1] / G[0].norm() / G[1].norm()
    assert float(weighting.phihat[3, 1]) == pytest.approx(0.01 * float(cosine))
    assert set(weighting.state_dict()) == {"phihat"}


def test_gradvac_stays_finite_after_a_long_agreement_that_ends():
    weighting = GRADVAC.make(Setup(8, seed=1))
    weighting.phihat.fill_(1.0)
    for step in range(3):
        w = ask(weighting, torch.eye(8).double(), uniform(8), step)
        assert w.isfinite().all()
        assert float(w.max()) > 1  # not the way out


# All of them


@pytest.mark.parametrize("name", WEIGHTINGS)
def test_degenerate_gradients_give_finite_weights_and_change_no_input(name):
    weigh, K = WEIGHTINGS[name], 5
    G = random_rows(K, 4, 3)
    duplicated, opposed, near, zero = (G.clone() for _ in range(4))
    duplicated[1:] = duplicated[0]
    opposed[1], near[1], zero[2] = -3 * opposed[0], -near[0] + 1e-9, 0
    single = (G.float() @ G.float().T).double()  # dependent rows: negative eigenvalues of 1e-7
    spread = G * 10.0 ** torch.arange(-6, 9, 3)[:, None]
    grams = [rows @ rows.T for rows in (duplicated, opposed, near, zero, spread, G[:, :1])]
    share = random_share(K, 0)
    for M in [*grams, (single + single.T) / 2, grams[0] * 4.0**100, grams[0] * 4.0**-100]:
        before = M.clone(), share.clone()
        w = weigh(M, share)
        assert w.shape == (K,)
        assert w.dtype == torch.float64
        assert w.isfinite().all()
        assert torch.equal(M, before[0])
        assert torch.equal(share, before[1])
        assert torch.equal(w, weigh(M * 4.0**5, share))
        w[:] = 0  # the answer is no view of an input
        assert torch.equal(share, before[1])


@pytest.mark.parametrize("name", WEIGHTINGS)
def test_all_zero_is_share_one_task_is_one_and_copies_are_the_mean(name):
    weigh, share = WEIGHTINGS[name], random_share(4, 0)
    assert torch.equal(weigh(torch.zeros(4, 4).double(), share), share)
    for square in (0.0, 1e-12, 7.0, 1e12):
        assert weigh(vector([square]), vector(1)).tolist() == [1.0]
    copies = torch.full((4, 4), 3.0).double()
    assert float(weigh(copies, uniform(4)).sum()) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("name", ["nash", "fairgrad", "imtl_g", "con_fig", "pcgrad", "gradvac"])
def test_a_zero_row_weighs_its_share_and_turns_no_other(name):
    G, share = random_rows(3, 6, 1), vector(0.2, 0.3, 0.5)
    G[1] = 0
    w = WEIGHTINGS[name](G @ G.T, share)
    assert float(w[1]) == pytest.approx(0.3)
    if name in [*EQUILIBRIA, "imtl_g"]:
        assert float(w.sum()) == pytest.approx(1)
    kept = [0, 2]
    alone = WEIGHTINGS[name](G[kept] @ G[kept].T, share[kept] / 0.7)
    d, expected = w @ G, alone @ G[kept]
    assert close(d / d.norm(), expected / expected.norm(), 1e-9)


@pytest.mark.parametrize("name", EQUILIBRIA)
def test_a_task_of_more_share_gains_more(name):
    G = random_rows(3, 6, 2)
    even, uneven = (
        G @ (w / (w @ G).norm() @ G)
        for w in (WEIGHTINGS[name](G @ G.T, s) for s in (uniform(3), vector(0.6, 0.2, 0.2)))
    )
    assert uneven[0] > even[0]
