"""ScaledMerge over task vectors: values and gradients are those of K copies and autograd."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call

from reference import scaled_copies as twin
from taskgrove.errors import TaskgroveError
from taskgrove.merging.learned.cleaned import CleanVectors
from taskgrove.merging.learned.partition import parts_of
from taskgrove.merging.learned.scaled_merge import ScaledMerge
from taskgrove.merging.learned.vectors import BLOCK, MemoryVectors, gram

quick = settings(max_examples=25, deadline=None)
SHAPES = st.lists(st.lists(st.integers(1, 5), max_size=3).map(tuple), min_size=1, max_size=4)


def models_of(shapes, models, seed, spread=0.3):
    g = torch.Generator().manual_seed(seed)
    base = {f"w{i}": torch.randn(shape, generator=g) for i, shape in enumerate(shapes)}
    return base, {n: spread * torch.randn(models, *w.shape, generator=g) for n, w in base.items()}


def wave(weights):
    return sum((i + 1) * w.float().sin().sum() for i, w in enumerate(weights.values()))


def random_like(parameter, seed):
    g = torch.Generator().manual_seed(seed)
    return torch.rand(parameter.shape, generator=g) * 1.6 - 0.3  # beyond both bounds too


# --- the three granularities -------------------------------------------------------------------


@quick
@given(
    granularity=st.sampled_from(["task", "tensor", "partition"]),
    bounded=st.booleans(),
    shapes=SHAPES,
    models=st.integers(1, 5),
    parts=st.integers(1, 4),
    seed=st.integers(0, 99),
)
def test_values_and_gradients_are_those_of_copies(
    granularity, bounded, shapes, models, parts, seed
):
    base, tau = models_of(shapes, models, seed)
    count = parts if granularity == "partition" else 1
    merge = ScaledMerge(
        MemoryVectors(base, tau), granularity, 0.3, (0.0, 1.0) if bounded else None,
        partitions=count, seed=seed,
    )  # fmt: skip
    merge.coefficients.data.copy_(random_like(merge.coefficients, seed))
    lam = merge.coefficients.detach().clone().requires_grad_()
    c = lam.clamp(0, 1) if bounded else lam
    masks = None
    if granularity == "task":
        c = c[:, None].expand(-1, len(base))
    if granularity == "partition":
        masks = {n: parts_of(n, 0, w.numel(), count, seed).view(w.shape) for n, w in base.items()}
    expected = twin.scaled(base, tau, c, masks)
    wave(expected).backward()
    weights = merge.weights()
    wave(weights).backward()
    merge.backward_from({name: w.grad for name, w in weights.items()})
    for name, w in expected.items():
        torch.testing.assert_close(weights[name], w, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(merge.coefficients.grad, lam.grad, rtol=1e-5, atol=1e-5)
    merge.backward_from({})
    torch.testing.assert_close(merge.coefficients.grad, lam.grad, rtol=1e-5, atol=1e-5)
    assert list(merge.state_dict()) == ["coefficients"]


def test_a_module_larger_than_a_block():
    """Through functional_call and several blocks; the gradient of all coefficients to 1e-5."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(300, 400), nn.Tanh(), nn.Linear(400, 5))
    base = {n: w.detach() for n, w in model.named_parameters()}
    assert base["0.weight"].numel() > BLOCK
    tau = {n: 0.02 * torch.randn(8, *w.shape) for n, w in base.items()}
    x = torch.randn(16, 300)
    merge = ScaledMerge(MemoryVectors(base, tau))

    def loss(forward):
        return forward(x).log_softmax(-1).exp().square().sum()

    weights = merge.weights()
    loss(lambda x: functional_call(model, weights, (x,))).backward()
    merge.backward_from({n: w.grad for n, w in weights.items()})
    expected = twin.gradient(model, base, tau, torch.full((8, 4), 0.3), loss)
    error = (merge.coefficients.grad - expected).norm() / expected.norm()
    assert error < 1e-5


@quick
@given(shapes=SHAPES, models=st.integers(1, 4), seed=st.integers(0, 99), scale=st.floats(-1, 3))
def test_simplex_and_scale(shapes, models, seed, scale):
    base, tau = models_of(shapes, models, seed)
    merge = ScaledMerge(MemoryVectors(base, tau), "task", 1.0, None, "simplex+scale")
    torch.testing.assert_close(merge.scales(), torch.full((models,), 1 / models))
    merge.coefficients.data.copy_(random_like(merge.coefficients, seed))
    merge.scale.data.fill_(scale)
    a = merge.coefficients.detach().clone().requires_grad_()
    m = torch.tensor(float(scale), requires_grad=True)
    c = m.clamp(min=0) * a.softmax(0)
    wave(twin.scaled(base, tau, c[:, None].expand(-1, len(base)))).backward()
    weights = merge.weights()
    wave(weights).backward()
    merge.backward_from({name: w.grad for name, w in weights.items()})
    torch.testing.assert_close(merge.coefficients.grad, a.grad, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(merge.scale.grad, m.grad, rtol=1e-4, atol=1e-5)
    assert (merge.scales() >= 0).all()


def test_one_coefficient_everywhere_is_task_arithmetic_whatever_the_granularity():
    base, tau = models_of([(40, 30), (7,)], 3, seed=1)
    expected = {n: w + 0.3 * tau[n].sum(0) for n, w in base.items()}
    for granularity, parts in [("task", 1), ("tensor", 1), ("partition", 5)]:
        merge = ScaledMerge(MemoryVectors(base, tau), granularity, 0.3, None, partitions=parts)
        for name, w in merge.weights().items():
            torch.testing.assert_close(w, expected[name])
    zero = ScaledMerge(MemoryVectors(base, tau), init=0.0, bounds=None)
    assert all(torch.equal(w, base[n]) for n, w in zero.weights().items())


# --- random parts ------------------------------------------------------------------------------


@quick
@given(
    start=st.integers(0, 300), size=st.integers(0, 200), parts=st.integers(1, 70),
    seed=st.integers(0, 9),
)  # fmt: skip
def test_parts_depend_on_the_element_not_on_the_block(start, size, parts, seed):
    whole = parts_of("layer.weight", 0, start + size, parts, seed)
    assert torch.equal(parts_of("layer.weight", start, start + size, parts, seed), whole[start:])


def test_parts_are_even_and_independent():
    one, other, again = (
        parts_of(name, 0, 200_000, 20, seed) for name, seed in [("a", 0), ("b", 0), ("a", 1)]
    )
    for mask in (one, other, again):
        counts = mask.bincount(minlength=20)
        assert len(counts) == 20
        chi2 = ((counts - 10_000) ** 2 / 10_000).sum().item()
        assert chi2 < 43.8  # 99.9 % of a chi-squared with 19 degrees of freedom
    for a, b in [(one, other), (one, again), (one[1:], one[:-1])]:
        assert abs((a == b).float().mean().item() - 0.05) < 0.003
    assert parts_of("a", 0, 8, 5, 0).tolist() == parts_of("a", 0, 8, 5, 0).tolist()


def test_pinned_parts():
    """They may never change: coefficients of a saved aTLAS x K mean nothing without them."""
    raw = np.random.Philox(key=[3, 0xE8B7BE43]).random_raw(4)  # CRC-32 of "a"
    u = [half for word in raw.tolist() for half in (word & 0xFFFFFFFF, word >> 32)]
    assert parts_of("a", 0, 8, 10, 3).tolist() == [10 * x >> 32 for x in u]


# --- clean vectors, lengths --------------------------------------------------------------------


@quick
@given(
    density=st.floats(0.01, 1.0), shapes=SHAPES, models=st.integers(1, 5), seed=st.integers(0, 99)
)
def test_clean_vectors_are_their_twin(density, shapes, models, seed):
    base, tau = models_of(shapes, models, seed)
    tau = {n: (8 * d).round() / 8 for n, d in tau.items()}  # equal magnitudes and cancelled sums
    clean = CleanVectors(MemoryVectors(base, tau), density)
    got = torch.cat([b.clone() for n in clean.names for _, b in clean.blocks(n)], 1)
    torch.testing.assert_close(got, twin.clean(tau, density))
    picked = clean.only([models - 1])
    assert picked.models == 1
    merge = ScaledMerge(clean, init=0.5)
    flat = torch.cat([w.flatten() for w in merge.weights().values()])
    start = torch.cat([w.flatten() for w in base.values()])
    torch.testing.assert_close(flat, start + 0.5 * got.sum(0))


def test_gram():
    base, tau = models_of([(40, 30), (7,), ()], 3, seed=2)
    flat = torch.cat([d.reshape(3, -1) for d in tau.values()], 1).double()
    torch.testing.assert_close(gram(MemoryVectors(base, tau)), flat @ flat.T, rtol=1e-5, atol=1e-6)


# --- dtypes, ties, what is refused -------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_weights_come_in_the_bases_dtype(dtype):
    base, tau = models_of([(6, 5), (3,)], 2, seed=3)
    base = {n: w.to(dtype) for n, w in base.items()} | {"ids": torch.arange(3)}
    merge = ScaledMerge(MemoryVectors(base, tau))
    weights = merge.weights()
    assert weights["ids"] is base["ids"]
    wave({n: weights[n] for n in tau}).backward()
    merge.backward_from({n: weights[n].grad for n in tau})
    for i, name in enumerate(tau):
        expected = base[name].double() + 0.3 * tau[name].double().sum(0)
        torch.testing.assert_close(weights[name], expected.to(dtype), rtol=1e-2, atol=1e-6)
        G = (i + 1) * weights[name].detach().float().cos()
        inner = (tau[name] * G).flatten(1).sum(1)
        torch.testing.assert_close(merge.coefficients.grad[:, i], inner, rtol=2e-2, atol=2e-2)


def test_tied_and_sparse_and_transposed_gradients():
    shared = torch.randn(7, 4)
    base = {"embed": shared, "out": shared, "w": torch.randn(4, 3)}
    tau = {"embed": torch.randn(2, 7, 4), "w": torch.randn(2, 4, 3)}
    merge = ScaledMerge(MemoryVectors(base, tau))
    weights = merge.weights()
    assert weights["out"] is weights["embed"]
    assert merge.names == ("embed", "w")
    sparse = torch.zeros(7, 4)
    sparse[2] = 1
    across = torch.randn(3, 4).T  # not contiguous
    merge.backward_from({"embed": sparse.to_sparse(1), "w": across})
    expected = [tau["embed"][:, 2].sum(1), (tau["w"] * across).sum((1, 2))]
    torch.testing.assert_close(merge.coefficients.grad, torch.stack(expected, 1))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"granularity": "tesnor"}, 'granularity is "tesnor".*Did you mean "tensor"'),
        ({"parametrisation": "simplex"}, "parametrisation is .simplex."),
        ({"parametrisation": "simplex+scale"}, 'expected granularity "task", not "tensor"'),
        ({"init": 2.0}, "outside the bounds"),
        ({"init": float("nan")}, "init is nan"),
        ({"partitions": 3}, 'partitions=3 with granularity "tensor"'),
        ({"granularity": "partition", "partitions": 0}, "partitions=0"),
    ],
)
def test_mistakes_are_told(wrong, words):
    base, tau = models_of([(2,)], 1, seed=0)
    with pytest.raises(TaskgroveError, match=words):
        ScaledMerge(MemoryVectors(base, tau), **wrong)
    with pytest.raises(TaskgroveError, match=r"density is 1\.5"):
        CleanVectors(MemoryVectors(base, tau), 1.5)
