"""MGDA, UPGrad, DualProj and CAGrad: their properties, their twins on rows, numbers by hand."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reference.projecting import KINDS, cagrad_dual, draw_rows, dualproj_rows, upgrad_rows
from taskgrove.balancing import cagrad as cagrad_file
from taskgrove.balancing import dualproj as dualproj_file
from taskgrove.balancing import mgda as mgda_file
from taskgrove.balancing import upgrad as upgrad_file
from taskgrove.balancing.cagrad import cagrad
from taskgrove.balancing.choice import Setup, Statistic
from taskgrove.balancing.dualproj import dualproj
from taskgrove.balancing.mgda import mgda
from taskgrove.balancing.upgrad import upgrad

METHODS = {
    "mgda": mgda,
    "mgda l2": lambda M, share: mgda(M, share, "l2"),
    "upgrad": upgrad,
    "dualproj": dualproj,
    "cagrad": cagrad,
    "cagrad 1.5": lambda M, share: cagrad(M, share, 1.5),
}
HARMLESS = ["mgda", "mgda l2", "upgrad", "dualproj", "cagrad 1.5"]
seeds = st.integers(0, 100_000)
quick = settings(deadline=None, max_examples=25)


def almost(seed):
    """Rows that are nearly opposed or nearly twice there: rounding of M leaves much open."""
    return "almost" in KINDS[seed % 6]


def draw(seed, tasks=12):
    """(G, share), numpy."""
    G = draw_rows(seed, tasks)
    return G, np.random.default_rng(seed).dirichlet(np.full(len(G), 3.0)) * 0.9 + 0.1 / len(G)


def weigh(method, G, share=None):
    """The weights by a method's name, numpy to numpy."""
    share = np.full(len(G), 1 / len(G)) if share is None else share
    return METHODS[method](torch.from_numpy(G @ G.T), torch.from_numpy(share)).numpy()


def longest(G):
    return np.linalg.norm(G, axis=1).max()


@pytest.mark.parametrize("method", HARMLESS)
@quick
@given(seed=seeds)
def test_no_task_is_harmed(method, seed):
    G, share = draw(seed)
    M, lengths = G @ G.T, np.linalg.norm(G, axis=1)
    along = (M @ weigh(method, G, share)) / lengths  # d . g_t / |g_t|
    tolerance = 1e-9 if almost(seed) else 1e-12
    assert along.min() >= -tolerance * lengths.max()


@pytest.mark.parametrize("method", METHODS)
@quick
@given(seed=seeds, power=st.integers(-12, 12))
def test_scale_changes_no_bit_and_inputs_stay(method, seed, power):
    G, share = draw(seed)
    M, share = torch.from_numpy(G @ G.T), torch.from_numpy(share)
    before = M.clone(), share.clone()
    w = METHODS[method](M, share)
    assert torch.equal(METHODS[method](M * 4.0**power, share), w)
    assert torch.equal(M, before[0])
    assert torch.equal(share, before[1])
    assert torch.isfinite(w).all()


@pytest.mark.parametrize("method", METHODS)
@quick
@given(seed=seeds)
def test_order_does_not_matter(method, seed):
    G, share = draw(seed)
    order = np.random.default_rng(seed + 1).permutation(len(G))
    w, again = weigh(method, G, share), weigh(method, G[order], share[order])
    lengths = np.linalg.norm(G, axis=1)
    scale = lengths.max() * max(1.0, (w * lengths).max() / lengths.max())
    d, d_again = w @ G, again @ G[order]
    assert np.abs(d - d_again).max() <= 1e-6 * scale
    if not almost(seed):  # there rounding of M leaves the weights open
        assert np.abs((w * lengths)[order] - again * lengths[order]).max() <= 1e-5 * scale


@pytest.mark.parametrize("method", METHODS)
def test_edges(method):
    one, two = np.array([[3.0, 4.0]]), np.array([[3.0, 4.0], [3.0, 4.0]])
    assert weigh(method, one) == [1.0]
    assert weigh(method, 0 * one) == [1.0]
    assert np.allclose(weigh(method, two), 0.5, atol=1e-12)  # agreeing tasks: the mean
    share = np.array([0.25, 0.75])
    assert np.array_equal(weigh(method, 0 * two, share), share)
    opposed = np.array([[1.0, 2.0], [-1.0, -2.0]])
    assert np.abs(weigh(method, opposed) @ opposed).max() < 1e-12
    zero = np.array([[1.0, 0.0], [0.0, 0.0], [-1.0, 0.5]])
    w = weigh(method, zero)
    assert np.isfinite(w).all()
    assert (zero @ (w @ zero)).min() >= -1e-12


@quick
@given(seed=seeds, method=st.sampled_from(["upgrad", "dualproj"]))
def test_projections_match_their_twins(seed, method):
    G, share = draw(seed)
    twin = {"upgrad": upgrad_rows, "dualproj": dualproj_rows}[method]
    tolerance = 1e-5 if almost(seed) else 1e-9
    assert np.abs(weigh(method, G, share) @ G - twin(G, share)).max() <= tolerance * longest(G)


@pytest.mark.parametrize(("dim", "mean"), [(100, 0.0), (100, 0.3), (1000, 0.0), (40, 0.0)])
def test_upgrad_of_a_hundred_tasks(dim, mean):
    G = np.random.default_rng(dim).standard_normal((100, dim)) + mean
    w = weigh("upgrad", G)
    assert (G @ (w @ G)).min() >= -1e-12 * longest(G) ** 2
    assert np.abs(w @ G - upgrad_rows(G, np.full(100, 0.01))).max() <= 1e-10 * longest(G)


@settings(deadline=None, max_examples=25)
@given(seed=seeds, c=st.sampled_from([0.2, 0.4, 0.8]))
def test_cagrad_meets_its_dual(seed, c):
    G = np.random.default_rng(seed).normal(size=(seed % 4 + 2, 6))
    G = draw_rows(seed % 6, 6) if seed % 3 == 0 else G
    share = np.random.default_rng(seed).dirichlet(np.full(len(G), 3.0))
    M, given_share = torch.from_numpy(G @ G.T), torch.from_numpy(share)
    x = cagrad(M, given_share, c, divisor="1").numpy() - share
    g_0, d, radius = share @ G, (share + x) @ G, c * np.linalg.norm(share @ G)
    worst, scale = (G @ d).min(), np.linalg.norm(share @ G) * longest(G)
    assert np.linalg.norm(d - g_0) <= radius * (1 + 1e-8)
    if np.linalg.norm(d - g_0) > radius * (1 - 1e-8):  # else more than mu = 0 is out of reach
        g_w = x / x.sum() @ G
        dual = g_w @ g_0 + radius * np.linalg.norm(g_w)
        assert worst >= dual - 1e-8 * scale  # a certificate: no d has more than any w's dual
    found = cagrad_dual(G, share, c)[1]
    assert worst <= found + 1e-8 * scale
    assert almost(seed) or worst >= found - 1e-5 * scale  # as far as SLSQP comes itself


def test_numbers_by_hand():
    G = np.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])  # g_1 . g_2 = -22, |g_1|^2 = 18, |g_2|^2 = 38
    assert np.allclose(weigh("mgda", G), [0.6, 0.4])
    assert np.allclose(weigh("mgda", G) @ G, [0, 1, 1])
    assert np.allclose(weigh("dualproj", G), [0.5 + 1 / 9, 0.5])  # g_0 . g_1 = -2
    assert np.allclose(weigh("upgrad", G), [0.5 + 11 / 18, 0.5 + 11 / 38])
    d = weigh("cagrad", G) @ G * 1.4 - G.mean(0)
    assert np.linalg.norm(d) == pytest.approx(0.4 * np.sqrt(3), rel=1e-9)


def test_divisors_of_cagrad():
    M, share = torch.tensor([[18.0, -22.0], [-22.0, 38.0]]).double(), torch.tensor([0.5, 0.5])
    plain = cagrad(M, share.double(), 0.5, divisor="1")
    assert torch.allclose(cagrad(M, share.double(), 0.5, divisor="1+c"), plain / 1.5)
    assert torch.allclose(cagrad(M, share.double(), 0.5, divisor="1+c^2"), plain / 1.25)
    assert torch.equal(cagrad(M, share.double(), 0.0), share.double())


@quick
@given(seed=seeds)
def test_normalised_mgda_has_a_direction_without_scales(seed):
    rng = np.random.default_rng(seed)
    G, times = rng.normal(size=(4, 6)), 10 ** rng.uniform(-3, 3, size=(4, 1))
    d, again = weigh("mgda l2", G) @ G, weigh("mgda l2", G * times) @ (G * times)
    assert np.allclose(d / np.linalg.norm(d), again / np.linalg.norm(again), atol=1e-6)
    losses = torch.from_numpy(rng.uniform(0.5, 2, 4))
    M, share = torch.from_numpy(G @ G.T), torch.full((4,), 0.25, dtype=torch.float64)
    scaled = mgda(M / torch.outer(losses, losses), share) / losses
    assert torch.allclose(mgda(M, share, "loss", losses), scaled / scaled.sum())
    n = losses * M.diagonal().sqrt()
    scaled = mgda(M / torch.outer(n, n), share) / n
    assert torch.allclose(mgda(M, share, "loss+", losses), scaled / scaled.sum())


@pytest.mark.parametrize("file", [mgda_file, upgrad_file, dualproj_file, cagrad_file])
def test_a_choice_makes_its_weighting(file):
    M = torch.tensor([[18.0, -22.0], [-22.0, 38.0]]).double()
    half = torch.tensor([0.5, 0.5]).double()
    statistic = Statistic(torch.arange(2), half, 0, half, M)
    w, objective = file.CHOICE.make(Setup(tasks=2))(statistic)
    name = file.__name__.rpartition(".")[2]
    assert torch.equal(w, getattr(file, name)(M, half))
    assert objective is None
