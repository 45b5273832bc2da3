"""The simplex's projection and least norm, and the quadratic under both dual cone and least norm.

The truth of a least norm is a certificate in exact integers, made without the solver: for any v,
|G^T w| >= min_t (M v)_t / sqrt(v^T M v) for all w of the simplex (Cauchy and Schwarz).
"""

from math import ldexp

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reference.projecting import draw_rows
from taskgrove.balancing.dual_cone import EPS, dual_cone_weights, nonnegative_qp, unit_rows
from taskgrove.balancing.simplex import min_norm_point, project_simplex

numbers = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=8).map(np.array)


def exact(values):
    """Times 2^200, as Python's integers: nothing of these tests' numbers is lost."""
    flat = [int(ldexp(float(v), 200)) for v in values.flat]
    return np.array(flat, dtype=object).reshape(values.shape)


def certify(M, w):
    """(w^T M w, a lower bound of the least one), both exact up to the last rounding."""
    lengths, S = np.sqrt(M.diagonal()), w > 0
    C = M / np.outer(lengths, lengths)
    A, one = exact(M), 1 << 200
    v = exact(w)
    square = v @ (A @ v)  # times 2^600
    for _ in range(3):  # make M v constant on the support: linear equations, refined exactly
        y = A @ v  # times 2^400
        level = (v @ y) // v.sum()  # times 2^400
        miss = np.array([float((level - t) / one**2) for t in y[S]]) / lengths[S]
        change = np.linalg.lstsq(C[np.ix_(S, S)], miss, rcond=1e-13)[0] / lengths[S]
        v[S] += exact(change)
    y = A @ v
    least, below = y.min(), v @ y
    bound = float(least * least * one // below / one**2) if least > 0 and below > 0 else 0.0
    return float(square / one**3), bound


def check_least_norm(seeds):
    """All within 1e-6 of the least; returns how many are not 0 within the rounding of M."""
    resolved = 0
    for seed in seeds:
        G = draw_rows(seed)
        M = G @ G.T
        w = min_norm_point(M)
        assert w.min() >= 0
        assert abs(w.sum() - 1) < 1e-12
        value, bound = certify(M, w)
        rounding = 4 * len(M) * EPS * (w @ np.sqrt(M.diagonal())) ** 2  # of M's entries in w^T M w
        assert value <= (1 + 1e-6) * bound + rounding, seed
        assert value <= M.diagonal().min() * (1 + 1e-12)
        resolved += rounding < 1e-7 * value
    return resolved


def test_the_least_norm_is_certified():
    assert check_least_norm(range(204)) > 80


@pytest.mark.slow
def test_the_least_norm_is_certified_1000_times():
    assert check_least_norm(range(1000, 2000)) > 400


def test_the_certificate_can_refuse():
    M = np.diag([1.0, 4.0])
    w = np.array([0.8, 0.2])
    assert certify(M, w) == pytest.approx((0.8, 0.8), rel=1e-12)
    value, bound = certify(M, np.array([0.801, 0.199]))
    assert value > (1 + 1e-6) * bound


@given(numbers)
def test_projection_on_the_simplex_is_the_nearest_point(v):
    w = project_simplex(v)
    assert w.min() >= 0
    assert w.sum() == pytest.approx(1, abs=1e-9)
    slack = (v - w) - (v - w)[w > 0].min()  # v - w is largest, and constant, where w > 0
    assert slack.max() <= 1e-9 * max(1.0, np.abs(v).max())
    assert np.allclose(project_simplex(v + 3.0), w, atol=1e-9)


def test_a_point_of_the_simplex_stays():
    w = np.array([0.25, 0.0, 0.75])
    assert np.array_equal(project_simplex(w), w)


def test_two_tasks_have_the_papers_closed_form():
    rng = np.random.default_rng(0)
    for _ in range(50):
        G = rng.standard_normal((2, 3)) * 10 ** rng.uniform(-3, 3, size=(2, 1))
        first = np.clip((G[1] - G[0]) @ G[1] / ((G[0] - G[1]) @ (G[0] - G[1])), 0, 1)
        assert np.allclose(min_norm_point(G @ G.T), [first, 1 - first], rtol=1e-9, atol=1e-15)


def test_undetermined_weights_treat_equal_rows_alike():
    e = np.eye(2)
    G = np.stack([e[0], e[0], e[1]])
    assert np.allclose(min_norm_point(G @ G.T), [0.25, 0.25, 0.5], atol=1e-7)
    square = np.stack([e[0], e[1], -e[0], -e[1]])  # 0 in the hull in more than one way
    assert np.allclose(min_norm_point(square @ square.T), [0.25] * 4, atol=1e-7)
    assert np.array_equal(min_norm_point(np.diag([0.0, 2.0, 0.0])), [0.5, 0, 0.5])


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10_000))
def test_the_quadratic_is_at_its_minimum(seed):
    rng = np.random.default_rng(seed)
    C, _ = unit_rows(np.cov(draw_rows(seed, tasks=12), bias=True) + 0.0)
    Q = rng.standard_normal((4, len(C))) @ C  # in the range: the minimum exists
    X = nonnegative_qp(C, Q)
    Y = X @ C + Q
    scale = (1 + X.max(1, keepdims=True)) * np.abs(Q).max()
    assert X.min() >= 0
    assert (-1e-9 * scale <= Y).all()
    assert (np.abs(X * Y) <= 1e-9 * scale * scale).all()


def test_without_a_conflict_nothing_changes():
    M = np.array([[1.0, 0.5], [0.5, 4.0]])
    U = np.array([[0.3, 0.7], [1.0, 0.0]])
    assert np.array_equal(dual_cone_weights(M, U), U)


def test_single_precision_noise_keeps_weights_bounded():
    for seed in range(60):
        G = draw_rows(seed, tasks=20)
        lengths = np.linalg.norm(G, axis=1)
        noise = np.random.default_rng(seed).standard_normal((len(G), len(G))) * 1e-7
        M = G @ G.T + (noise + noise.T) * np.outer(lengths, lengths)
        V = dual_cone_weights(M, np.eye(len(G))) * lengths / lengths[:, None]
        assert np.isfinite(V).all()
        assert V.max() < 1e6
        assert (V @ (M / np.outer(lengths, lengths))).min() > -1e-5 * V.max()
