"""Selection: the k-th largest is the sorted one's, whatever the sample, the bins and the blocks."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from taskgrove.merging import blocks
from taskgrove.merging.blocks import Reading, Seeing
from taskgrove.merging.models import Arrays
from taskgrove.merging.static import selection
from taskgrove.merging.static.selection import kth, largest

quick = settings(max_examples=40, deadline=None)


def seeing(tensors, threads=1):
    """Blocks over models [model number], cut into tensors; without a base."""
    models = [
        Arrays(f"model {k}", {f"w{i}": tensor[k] for i, tensor in enumerate(tensors)})
        for k in range(len(tensors[0]))
    ]
    return Seeing(Reading(None, models, threads), [f"w{i}" for i in range(len(tensors))])


def by_sorting(tensors, ranks):
    values = np.abs(np.concatenate(tensors, axis=1))
    return [np.sort(values[r % len(values)])[::-1][k - 1] for r, k in enumerate(ranks)]


def drawn(kind, dtype, models, size, seed):
    rng = np.random.default_rng(seed)
    if kind == "few":
        return rng.integers(-2, 3, (models, size)).astype(dtype)
    if kind == "zeros":
        return (rng.normal(size=(models, size)) * (rng.random((models, size)) < 0.1)).astype(dtype)
    if kind == "shifting":  # what comes first says little of the rest
        return (rng.normal(size=(models, size)) * np.linspace(0, 1, size) ** 4).astype(dtype)
    if kind == "tiny":  # subnormal numbers too
        least = np.finfo(dtype).smallest_subnormal
        return (rng.integers(-1000, 1000, (models, size)) * least).astype(dtype)
    return (rng.normal(size=(models, size)) * 10.0 ** rng.integers(-3, 4, (models, 1))).astype(
        dtype
    )


@quick
@given(
    kind=st.sampled_from(["few", "zeros", "shifting", "tiny", "normal"]),
    dtype=st.sampled_from([np.float32, np.float64, np.float16]),
    sizes=st.lists(st.sampled_from([1, 5, 63, 64, 200, 900]), min_size=1, max_size=3),
    models=st.integers(1, 3),
    share=st.floats(0, 1),
    rounds=st.integers(1, 2),
    every=st.sampled_from([1, 7, 31]),
    bins=st.sampled_from([2, 16, 1 << 22]),
    margin=st.sampled_from([0.0, 3.0]),  # 0: nearly every bracket misses
    sample=st.sampled_from([1, 40, 1 << 21]),  # the last: sorted at once
    seed=st.integers(0, 99),
)
@example("few", np.float32, [900], 2, 1.0, 1, 31, 2, 0.0, 1, 0)
@example("zeros", np.float64, [900, 5], 2, 0.5, 2, 7, 2, 0.0, 1, 0)
def test_the_kth_largest_is_the_sorted_ones(
    kind, dtype, sizes, models, share, rounds, every, bins, margin, sample, seed
):
    tensors = [drawn(kind, dtype, models, size, seed + i) for i, size in enumerate(sizes)]
    size = sum(sizes)
    rank = max(1, round(share * size))
    ranks = [min(size, rank + r) for r in range(models * rounds)]
    settings_ = {"SAMPLE": sample, "EVERY": every, "BINS": bins, "MARGIN": margin, "HELD": 50}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "BLOCK", 64)
        for name, value in settings_.items():
            patch.setattr(selection, name, value)
        found = largest(seeing(tensors), ranks)
    assert found.dtype == (np.float64 if dtype == np.float64 else np.float32)
    assert found.tolist() == by_sorting(tensors, ranks)


def passes_of(tensors, ranks):
    """How many passes it took after the sample, with blocks of 64 numbers and a small sample."""
    with pytest.MonkeyPatch.context() as patch:
        passes = []
        narrowed = selection._narrowed
        patch.setattr(blocks, "BLOCK", 64)
        patch.setattr(selection, "SAMPLE", 3000)
        patch.setattr(selection, "EVERY", 7)
        patch.setattr(selection, "_narrowed", lambda *given: passes.append(1) or narrowed(*given))
        assert largest(seeing(tensors), ranks).tolist() == by_sorting(tensors, ranks)
    return len(passes)


def test_one_pass_as_a_rule_and_few_where_the_sample_misleads():
    even = [drawn("normal", np.float32, 2, 60_000, 0)]
    assert passes_of(even, [12_000, 9_000]) == 1
    assert passes_of([drawn("zeros", np.float32, 2, 60_000, 0)], [12_000, 30_000]) == 1
    first = np.arange(60_000) // 64 % 5 == 0  # just the blocks that the sample sees are small
    assert 1 < passes_of([np.where(first, even[0] / 1e6, even[0])], [50_000, 600]) <= 4
    assert 1 < passes_of([np.where(first, np.float32(0.25), even[0])], [50_000, 600]) <= 4


def test_threads_do_not_matter():
    tensors = [drawn("shifting", np.float32, 2, 20_000, 3)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "BLOCK", 64)
        patch.setattr(selection, "SAMPLE", 100)
        found = [largest(seeing(tensors, threads), [4000, 10]).tolist() for threads in (1, 3)]
    assert found[0] == found[1] == by_sorting(tensors, [4000, 10])


def test_another_quantity_of_the_models():
    tensor = drawn("normal", np.float32, 3, 500, 0)
    spread = largest(seeing([tensor]), [50], lambda _, deltas: np.ptp(deltas, axis=0)[None])
    assert spread.tolist() == [np.sort(np.ptp(tensor, axis=0))[::-1][49]]
    assert largest(seeing([tensor[:, :0]]), [1, 1, 1]).tolist() == []


@pytest.mark.parametrize("kind", [np.uint32, np.uint64])
@pytest.mark.parametrize("most", [1, 3, 5000, 1 << 31])
def test_the_kth_code_is_that_of_a_sort(kind, most):
    rng = np.random.default_rng(most)
    for size in (1, 2, 7, 300):
        codes = rng.integers(0, most, size).astype(kind)
        found = [kth(codes, k) for k in range(1, size + 1)]
        assert found == np.sort(codes)[::-1].tolist()
