"""Task vectors, the table of static methods, and the entropy that learned merges lower."""

import math
import pkgutil
from importlib import import_module

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reference import merging as twin
from taskgrove import objectives
from taskgrove.errors import TaskgroveError
from taskgrove.merging import static
from taskgrove.merging.learned.task_vector import apply, deltas
from taskgrove.merging.static.static import Static
from taskgrove.merging.static.table import STATIC
from taskgrove.objectives import prediction_entropy

quick = settings(max_examples=25, deadline=None)


def test_the_table_matches_the_files():
    names = [module.name for module in pkgutil.iter_modules(static.__path__)]
    files = [import_module(f"taskgrove.merging.static.{name}") for name in names]
    found = {
        f.__name__.rsplit(".", 1)[1]: f.METHOD
        for f in files
        if isinstance(getattr(f, "METHOD", None), Static)
    }
    assert found == STATIC
    for name, method in STATIC.items():
        assert method.merge.__name__ == name
        assert method.passes >= 1
    assert objectives.OBJECTIVES["entropy"] is prediction_entropy


# --- task vectors ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"a": None}, 'it lacks "a"'),
        ({"head": torch.zeros(2)}, 'the base lacks "head"'),
        (
            {"a": torch.zeros(2, 4), "b": torch.zeros(1)},
            r'"a \(2, 4\), base \(2, 3\)" and|"b \(1,\)',
        ),
        ({"ids": torch.arange(1, 5)}, 'integer or boolean tensors differ: "ids"'),
        ({"ids": torch.zeros(4)}, 'floating in only one of the two: "ids"'),
        ({"a": torch.full((2, 3), math.nan)}, 'tensor "a" of tuned model 2 holds NaN'),
        ({"b": torch.full((), math.inf)}, 'tensor "b" of tuned model 2 holds NaN or infinity'),
    ],
)
def test_tuned_models_that_do_not_fit_are_refused_by_name(change, words):
    base = {"a": torch.zeros(2, 3), "b": torch.tensor(1.0), "ids": torch.arange(4)}
    wrong = {n: w for n, w in (base | change).items() if w is not None}
    with pytest.raises(TaskgroveError, match=words):
        deltas(base, [base, wrong])
    with pytest.raises(TaskgroveError, match="no tuned model"):
        deltas(base, [])


def test_a_base_with_nan_and_a_merge_that_overflows_are_named():
    base = {"w": torch.tensor([math.nan])}
    with pytest.raises(TaskgroveError, match='"w" of the base'):
        deltas(base, [{"w": torch.zeros(1)}])
    with pytest.raises(TaskgroveError, match='"w" is not finite as torch'):
        apply({"w": torch.ones(1, dtype=torch.half)}, {"w": torch.full((1,), 1e6)})
    with pytest.raises(TaskgroveError, match='merged tensors "x"'):
        apply({"w": torch.ones(1)}, {"x": torch.ones(1)})


def test_tied_tensors_stay_tied_and_counters_may_differ():
    shared = torch.randn(4, 3)
    base = {"embed": shared, "out": shared, "n.num_batches_tracked": torch.tensor(1)}
    moved = shared + 1
    tuned = {"embed": moved, "out": moved.clone(), "n.num_batches_tracked": torch.tensor(9)}
    tau = deltas(base, [tuned])
    assert list(tau) == ["embed"]
    merged = apply(base, {"embed": shared + 0.5 * tau["embed"][0]})
    assert merged["out"] is merged["embed"]
    torch.testing.assert_close(merged["out"], shared + 0.5)
    assert merged["n.num_batches_tracked"] == 1
    with pytest.raises(TaskgroveError, match='no longer equal: "out and embed"'):
        deltas(base, [tuned | {"out": shared}])


# --- entropy -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["classes", "labels"])
@quick
@given(
    rows=st.integers(0, 4),
    classes=st.integers(1, 5),
    spread=st.floats(0, 30),
    seed=st.integers(0, 99),
)
def test_entropy_is_its_twin(kind, rows, classes, spread, seed):
    z = torch.randn(rows, classes, generator=torch.Generator().manual_seed(seed)) * spread
    got = prediction_entropy(z, kind)
    torch.testing.assert_close(got, twin.entropy(z, kind).float(), rtol=1e-4, atol=1e-6)
    most = math.log(classes) if kind == "classes" else classes * math.log(2)
    assert (got >= 0).all()
    assert (got <= most + 1e-5).all()


@pytest.mark.parametrize("kind", ["classes", "labels"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_entropy_of_extreme_logits_is_finite_and_so_is_its_gradient(kind, dtype):
    most = torch.finfo(dtype).max
    z = torch.tensor(
        [[most, -most, 0], [1e4, 1e4, -math.inf], [-math.inf, 5, -math.inf], [0, 0, 0], [9, 9, -9]],
        dtype=dtype,
        requires_grad=True,
    )
    entropy = prediction_entropy(z, kind)
    entropy.sum().backward()
    assert entropy.isfinite().all()
    assert z.grad is not None
    assert z.grad.isfinite().all()
    assert entropy.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    if kind == "classes":
        expected = torch.tensor([0, math.log(2), 0, math.log(3), math.log(2)])
        torch.testing.assert_close(entropy.float(), expected, rtol=1e-4, atol=1e-6)


def test_a_number_has_no_entropy():
    with pytest.raises(TaskgroveError, match='"number" have no entropy'):
        prediction_entropy(torch.zeros(1, 1), "number")
