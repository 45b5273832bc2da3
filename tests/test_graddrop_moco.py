"""GradDrop and MoCo against their obvious twins, hand-derived values, and a count of memory."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from reference.rows import graddrop_rows, moco_rows
from taskgrove.balancing import graddrop as graddrop_file
from taskgrove.balancing import moco as moco_file
from taskgrove.balancing.choice import Setup, Statistic
from taskgrove.balancing.graddrop import CHOICE, drop, graddrop
from taskgrove.balancing.moco import MoCo

EIGHTHS = st.integers(-24, 24).map(lambda n: n / 8)


def matrices(most=5, width=4):
    row = st.lists(EIGHTHS, min_size=width, max_size=width)
    return st.lists(row, min_size=1, max_size=most).map(lambda rows: torch.tensor(rows).double())


def uniform(K):
    return torch.full((K,), 1 / K, dtype=torch.float64)


def statistic(tasks, step=0, share=None):
    tasks = torch.tensor(tasks)
    losses = torch.ones(len(tasks), dtype=torch.float64)
    return Statistic(tasks, uniform(len(tasks)) if share is None else share, step, losses)


def draw(seed):
    return torch.Generator().manual_seed(seed)


class Largest(TorchDispatchMode):
    """The most elements that any result had."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        fresh = [t for t in tree_leaves(result) if isinstance(t, torch.Tensor) and t._base is None]
        known = {id(t) for t in tree_leaves((args, kwargs))}
        self.numel = max([self.numel, *(t.numel() for t in fresh if id(t) not in known)])
        return result


@given(matrices(), st.integers(0, 99), st.sampled_from([0.0, 0.25, 1.0]), st.booleans())
def test_graddrop_is_algorithm_1(G, seed, leak, equal):
    share = uniform(len(G)) if equal else torch.arange(1.0, len(G) + 1).double()
    share = share / share.sum()
    U = torch.rand(G.shape[1], generator=draw(seed))
    expected = graddrop_rows(G, share, U, leak)
    assert torch.allclose(graddrop(G, share, draw(seed), leak), expected, atol=1e-12)


def test_graddrop_of_three_to_one_is_the_pinned_example():
    """3 against -1: P = 3/4; d is 3/2 or -1/2, and 1, their mean, in expectation."""
    G = torch.tensor([[3.0], [-1.0]]).expand(2, 40_000)
    d = graddrop(G, uniform(2), draw(0))
    assert set(d.tolist()) == {1.5, -0.5}
    assert (d > 0).double().mean().item() == pytest.approx(3 / 4, abs=0.01)
    assert d.mean().item() == pytest.approx(1, abs=0.02)


def test_graddrop_leaves_tasks_that_agree_alone():
    G = torch.tensor([[1.0, -2.0, 0.0, 0.0], [3.0, -4.0, 5.0, 0.0]])
    for seed in range(20):
        assert graddrop(G, uniform(2), draw(seed)).tolist() == [2.0, -3.0, 2.5, 0.0]


def test_graddrop_leaks_task_by_task():
    G = torch.tensor([[2.0], [-4.0]]).expand(2, 500)
    d = graddrop(G, uniform(2), draw(0), leak=torch.tensor([1.0, 0.5]))
    assert set(d.tolist()) == {1 - 1, 1 - 2}  # g_1 always; g_2 halved where the draw is up


def test_graddrop_does_not_depend_on_its_pieces(monkeypatch):
    G = torch.randn(3, 1000, generator=draw(1))
    whole = graddrop(G, uniform(3), draw(2))
    monkeypatch.setattr(graddrop_file, "PIECE", 64)
    assert torch.equal(graddrop(G, uniform(3), draw(2)), whole)


def test_graddrop_draws_by_seed_and_step():
    G = torch.randn(3, 200, generator=draw(1))

    def at(seed, step):
        return CHOICE.make(Setup(3, seed))(statistic([0, 1, 2], step), G)

    assert torch.equal(at(1, 5), at(1, 5))
    assert not torch.equal(at(1, 5), at(1, 6))
    assert not torch.equal(at(1, 5), at(2, 5))
    assert torch.allclose(drop(1.0)(Setup(3))(statistic([0, 1, 2]), G), G.mean(0))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_graddrop_widens_half_precision(dtype):
    G = torch.randn(4, 500, generator=draw(1)).to(dtype)
    d = graddrop(G, uniform(4), draw(2))
    assert d.dtype == dtype
    assert torch.equal(d, graddrop(G.float(), uniform(4), draw(2)).to(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("file", [graddrop_file, moco_file])
def test_no_second_copy_of_the_rows_is_made(file, dtype, monkeypatch):
    monkeypatch.setattr(file, "PIECE", 64)
    G = torch.randn(6, 1000, generator=draw(1)).to(dtype)
    aggregate = file.CHOICE.make(Setup(6, shared=1000))
    with Largest() as largest:
        aggregate(statistic(range(6)), G)
    assert largest.numel == 1000


sizes = {"beta": 0.5, "gamma": 0.1, "sigma": 0.5, "rho": 0.0}
other = {"beta": 0.9, "gamma": 0.3, "sigma": 0.0, "rho": 0.2}


@settings(max_examples=60)
@given(
    st.lists(matrices(4), min_size=1, max_size=6),
    st.integers(0, 99),
    st.sampled_from([sizes, other]),
)
def test_moco_is_its_twin_whatever_tasks_are_present(grids, seed, options):
    generator = draw(seed)
    module = MoCo(4, 4, **options).double()
    present = [torch.randperm(4, generator=generator)[: len(G)].tolist() for G in grids]
    batches = [list(zip(here, G, strict=True)) for here, G in zip(present, grids, strict=True)]
    expected, Y, weights = moco_rows(4, 4, batches, **options)
    for step, (here, G) in enumerate(zip(present, grids, strict=True)):
        assert torch.allclose(module(statistic(here, step), G), expected[step], atol=1e-9)
    assert torch.allclose(module.y, Y, atol=1e-9)
    assert torch.allclose(module.weights, weights, atol=1e-9)


def test_moco_starts_with_the_pinned_step():
    """Y = 1/2 G, Y Y^T = diag(1/4, 1): lambda = 1/2 - 1/10 (1/8, 1/2), shifted to sum to 1."""
    module = MoCo(2, 2)
    d = module(statistic([0, 1]), torch.tensor([[1.0, 0.0], [0.0, 2.0]]))
    assert module.weights.tolist() == pytest.approx([0.51875, 0.48125])
    assert d.tolist() == pytest.approx([0.259375, 0.48125])


def test_moco_finds_the_min_norm_weights_of_the_mean_gradients():
    module, noise = MoCo(2, 2), draw(0)
    means = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    for step in range(2000):
        d = module(statistic([0, 1], step), means + torch.randn(2, 2, generator=noise) * 0.3)
    assert module.weights.tolist() == pytest.approx([0.8, 0.2], abs=0.03)
    assert d.tolist() == pytest.approx([0.8, 0.4], abs=0.06)


def test_moco_leaves_the_state_of_absent_tasks():
    module = MoCo(3, 2)
    module(statistic([0, 1, 2]), torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]]))
    y, weights = module.y.clone(), module.weights.clone()
    d = module(statistic([2], 1), torch.tensor([[3.0, 3.0]]))
    assert torch.equal(module.y[:2], y[:2])
    assert torch.allclose(module.weights, weights, rtol=1e-15)
    assert torch.equal(d, module.y[2])  # alone: the whole weight


def test_moco_starts_from_the_share_where_the_present_tasks_hold_no_weight():
    module = MoCo(3, 1, gamma=0.0)
    module.weights.copy_(torch.tensor([0.0, 0.0, 1.0]))
    share = torch.tensor([0.75, 0.25], dtype=torch.float64)
    d = module(statistic([0, 1], share=share), torch.tensor([[4.0], [8.0]]))
    assert d.item() == pytest.approx(0.5 * (3 + 2))
    assert module.weights.tolist() == [0.0, 0.0, 1.0]


def test_moco_tracks_in_single_precision_what_half_would_lose():
    module = MoCo(1, 1)
    for step in range(400):
        d = module(statistic([0], step), torch.ones(1, 1, dtype=torch.bfloat16))
    assert d.dtype == torch.bfloat16
    assert module.y.item() == pytest.approx(1, abs=1e-6)
