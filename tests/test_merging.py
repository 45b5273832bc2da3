"""Merging: properties, twins, one worked example of TIES, and AdaMerging on real digits."""

import inspect
import math
import pkgutil
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from torch import nn
from torch.func import functional_call

from reference import merging as twin
from taskgrove import merging, objectives
from taskgrove.errors import TaskgroveError
from taskgrove.merging import ScaledMerge, adamerging, apply, clean, deltas
from taskgrove.merging import ties as ties_whole
from taskgrove.merging.ties import clean_tensor, thresholds, ties_tensor
from taskgrove.objectives import prediction_entropy

STATIC = merging.STATIC
TENSORS = st.lists(st.lists(st.integers(1, 4), max_size=3).map(tuple), min_size=1, max_size=4)
SETTING = {
    "shapes": TENSORS,  # () is a scalar
    "models": st.integers(1, 4),
    "dtype": st.sampled_from([torch.float32, torch.bfloat16, torch.float64]),
    "seed": st.integers(0, 99),
}
quick = settings(max_examples=25, deadline=None)


def models_of(shapes, models, dtype, seed):
    """A base and tuned models on a grid of eighths: exact sums, equal magnitudes, cancellation."""
    g = torch.Generator().manual_seed(seed)

    def grid(shape, most):
        return torch.randint(-most, most + 1, shape, generator=g).to(dtype) / 8

    base = {f"w{i}": grid(shape, 16) for i, shape in enumerate(shapes)}
    base["position_ids"] = torch.arange(3)
    tuned = [
        {n: w + grid(w.shape, 6) if w.is_floating_point() else w.clone() for n, w in base.items()}
        for _ in range(models)
    ]
    return base, tuned


def floats(weights):
    return {name: w for name, w in weights.items() if w.is_floating_point()}


def same_bits(a, b):
    """Equal in names, dtypes and values, a negative zero told from a positive one."""
    return a.keys() == b.keys() and all(
        a[n].dtype == b[n].dtype
        and torch.equal(a[n], b[n])
        and torch.equal(a[n].signbit(), b[n].signbit())
        for n in a
    )


# --- tables ------------------------------------------------------------------------------------


def test_tables_match_the_files():
    parts = {"task_vector", "scaled_merge"}  # used by methods, none themselves
    methods = [*STATIC.values(), *merging.LEARNED.values()]
    names = [*STATIC, *merging.LEARNED]
    listed = {method.__module__.rsplit(".", 1)[1] for method in methods}
    assert listed | parts == {m.name for m in pkgutil.iter_modules(merging.__path__)}
    assert all(f.__name__ == name for f, name in zip(methods, names, strict=True))
    for name, method in STATIC.items():
        assert callable(getattr(inspect.getmodule(method), f"{name}_tensor"))
    assert objectives.OBJECTIVES["entropy"] is prediction_entropy


# --- static methods: properties ----------------------------------------------------------------


@pytest.mark.parametrize("name", STATIC)
@quick
@given(**SETTING)
def test_order_of_models_is_irrelevant_and_inputs_stay(name, shapes, models, dtype, seed):
    base, tuned = models_of(shapes, models, dtype, seed)
    tau = deltas(base, tuned)
    before = [{n: w.clone() for n, w in some.items()} for some in (base, *tuned, tau)]
    merged = STATIC[name](base, tau)
    backwards = STATIC[name](base, deltas(base, tuned[::-1]))
    for n, w in merged.items():
        torch.testing.assert_close(w, backwards[n])
        assert w.dtype == base[n].dtype
        assert w.shape == base[n].shape
    assert all(same_bits(a, b) for a, b in zip(before, (base, *tuned, tau), strict=True))
    for w in merged.values():
        w.add_(1)  # nor does the result share memory with its inputs
    assert all(same_bits(a, b) for a, b in zip(before, (base, *tuned, tau), strict=True))


@quick
@given(**SETTING)
def test_average_of_one_model_is_that_model(shapes, models, dtype, seed):
    base, tuned = models_of(shapes, models, dtype, seed)
    merged = STATIC["weight_average"](base, deltas(base, tuned[:1]))
    assert all(torch.equal(merged[n], w) for n, w in tuned[0].items())


@quick
@given(**SETTING)
def test_scale_zero_is_the_base_bit_for_bit(shapes, models, dtype, seed):
    base, tuned = models_of(shapes, models, dtype, seed)
    base = {n: -w if w.is_floating_point() else w for n, w in base.items()}  # has negative zeros
    tau = deltas(base, tuned)
    assert same_bits(STATIC["task_arithmetic"](base, tau, scale=0.0), base)
    assert same_bits(STATIC["ties"](base, tau, scale=0.0), base)


@quick
@given(scale=st.sampled_from([-1.0, 0.25, 0.3, 2.0]), **SETTING)
def test_task_arithmetic_is_its_twin_and_the_average_at_one_kth(scale, shapes, models, dtype, seed):
    base, tuned = models_of(shapes, models, dtype, seed)
    tau = deltas(base, tuned)
    got = twin.flat(floats(STATIC["task_arithmetic"](base, tau, scale=scale)))
    close = (
        {"rtol": 0.01, "atol": 0.01} if dtype == torch.bfloat16 else {"rtol": 1e-5, "atol": 1e-5}
    )
    torch.testing.assert_close(
        got, twin.task_arithmetic(floats(base), [floats(t) for t in tuned], scale), **close
    )
    mean = twin.flat(floats(STATIC["weight_average"](base, tau)))
    kth = twin.flat(floats(STATIC["task_arithmetic"](base, tau, scale=1 / models)))
    torch.testing.assert_close(kth, mean, **close)


# --- TIES --------------------------------------------------------------------------------------


def test_ties_by_hand():
    """Three models, five coordinates, each model keeps its three largest (60 %):

    A   .   3  -2   .   1
    B   4   .   2  -1   .       2 - 2 cancels; the other signs are + + - +, so it counts as +
    C   .   1   .  -3   5
    """
    tau = torch.tensor(
        [[0.5, 3.0, -2.0, 0.0, 1.0], [4.0, 0.25, 2.0, -1.0, 0.5], [0.5, 1.0, 0.0, -3.0, 5.0]]
    )
    assert thresholds({"w": tau}, 0.6).tolist() == [1.0, 1.0, 1.0]
    expected = torch.tensor([4.0, 2.0, 2.0, -2.0, 3.0])  # 4 | (3+1)/2 | 2 of B | (-1-3)/2 | (1+5)/2
    assert ties_whole({"w": torch.zeros(5)}, {"w": tau}, density=0.6)["w"].equal(expected)
    paper = ties_tensor(torch.zeros(5), tau, torch.ones(3), majority=0)
    assert paper.tolist() == [4.0, 2.0, 0.0, -2.0, 3.0]  # the equations alone: cancelled is 0


@quick
@given(density=st.floats(0.01, 1.0), scale=st.sampled_from([1.0, 0.5]), **SETTING)
def test_ties_is_its_twin(density, scale, shapes, models, dtype, seed):
    base, tuned = models_of(shapes, models, dtype, seed)
    merged = STATIC["ties"](base, deltas(base, tuned), density=density, scale=scale)
    expected = twin.ties(floats(base), [floats(t) for t in tuned], density, scale)
    close = (
        {"rtol": 0.01, "atol": 0.01} if dtype == torch.bfloat16 else {"rtol": 1e-5, "atol": 1e-5}
    )
    torch.testing.assert_close(twin.flat(floats(merged)), expected, **close)


@quick
@given(**SETTING)
def test_ties_keeping_all_of_agreeing_models_is_the_mean(shapes, models, dtype, seed):
    base, tuned = models_of(shapes, models, dtype, seed)
    tau = {n: d.abs() + 0.125 for n, d in deltas(base, tuned).items()}
    ties, mean = STATIC["ties"](base, tau, density=1.0), STATIC["weight_average"](base, tau)
    for n in base:
        torch.testing.assert_close(ties[n], mean[n])


def test_trim_counts_exactly_and_keeps_all_that_tie():
    distinct = {"a": torch.randperm(70).view(1, 7, 10) + 1.0, "b": torch.arange(71.0, 101.0)[None]}
    for density, kept in [(0.2, 20), (0.001, 1), (1.0, 100), (0.5, 50)]:
        cleaned = clean(distinct, density)
        assert sum(int((d != 0).sum()) for d in cleaned.values()) == kept
    assert not clean(distinct, 0.2)["a"].any()  # counted over the whole model: all 20 are in "b"
    assert [int((d != 0).sum()) for d in clean(distinct, 0.2, trim="tensor").values()] == [14, 6]
    assert int((clean({"w": torch.ones(1, 10)}, 0.2)["w"] != 0).sum()) == 10
    mostly_zero = torch.tensor([[0.0] * 9 + [1.0]])
    assert clean({"w": mostly_zero}, 0.5)["w"].equal(mostly_zero)


def test_clean_has_one_sign_per_coordinate_and_sums_to_ties():
    tau = torch.randn(5, 200, generator=torch.Generator().manual_seed(0))
    r = thresholds({"w": tau}, 0.3)
    cleaned = clean_tensor(tau, r)
    assert not ((cleaned > 0).any(0) & (cleaned < 0).any(0)).any()
    assert ((cleaned == 0) | (cleaned == tau)).all()
    mean = cleaned.sum(0) / (cleaned != 0).sum(0).clamp(min=1)
    torch.testing.assert_close(ties_tensor(torch.zeros(200), tau, r), mean)


# --- what is refused ---------------------------------------------------------------------------


def test_parameters_are_checked():
    base, tau = {"w": torch.zeros(2)}, {"w": torch.ones(1, 2)}
    for density in (0.0, -0.1, 1.5, math.nan):
        with pytest.raises(TaskgroveError, match="density is"):
            STATIC["ties"](base, tau, density=density)
    for method in ("task_arithmetic", "ties"):
        with pytest.raises(TaskgroveError, match="scale is inf"):
            STATIC[method](base, tau, scale=math.inf)
        with pytest.raises(TaskgroveError, match="do not fit the base"):
            STATIC[method]({"w": torch.zeros(3)}, tau)
    with pytest.raises(TaskgroveError, match='"tesnor"; expected "task" or "tensor"'):
        ScaledMerge(base, tau, granularity="tesnor")
    with pytest.raises(TaskgroveError, match="outside the bounds"):
        ScaledMerge(base, tau, init=2.0)


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
        STATIC["task_arithmetic"](
            {"w": torch.ones(1, dtype=torch.half)}, {"w": torch.ones(1, 1)}, scale=1e6
        )
    with pytest.raises(TaskgroveError, match='merged tensors "x"'):
        apply({"w": torch.ones(1)}, {"x": torch.ones(1)})


def test_tied_tensors_stay_tied_and_counters_may_differ():
    shared = torch.randn(4, 3)
    base = {"embed": shared, "out": shared, "n.num_batches_tracked": torch.tensor(1)}
    moved = shared + 1
    tuned = {"embed": moved, "out": moved.clone(), "n.num_batches_tracked": torch.tensor(9)}
    tau = deltas(base, [tuned])
    assert list(tau) == ["embed"]
    merged = STATIC["task_arithmetic"](base, tau, scale=0.5)
    assert merged["out"] is merged["embed"]
    torch.testing.assert_close(merged["out"], shared + 0.5)
    assert merged["n.num_batches_tracked"] == 1
    weights = ScaledMerge(base, tau).weights()
    (2 * weights["embed"].sum() + weights["out"].sum()).backward()
    assert weights["embed"].grad is not None
    assert (weights["embed"].grad == 3).all()
    with pytest.raises(TaskgroveError, match='no longer equal: "out and embed"'):
        deltas(base, [tuned | {"out": shared}])


# --- scaled merge ------------------------------------------------------------------------------


@quick
@given(granularity=st.sampled_from(["task", "tensor"]), bounded=st.booleans(), **SETTING)
def test_scaled_merge_and_its_gradient_are_autograds(
    granularity, bounded, shapes, models, dtype, seed
):
    base, tuned = models_of(shapes, models, torch.float32 if dtype.itemsize > 4 else dtype, seed)
    tau = deltas(base, tuned)
    merge = ScaledMerge(base, tau, granularity, init=0.5, bounds=(0.0, 1.0) if bounded else None)
    values = torch.tensor([-0.25, 0.0, 0.3, 1.0, 1.5])  # beyond, on and within the bounds
    pick = torch.randint(5, merge.coefficients.shape, generator=torch.Generator().manual_seed(seed))
    merge.coefficients.data.copy_(values[pick])
    lam = values[pick].requires_grad_()

    def loss(weights):
        return sum(w.float().sin().sum() for w in floats(weights).values())

    scales = lam.clamp(0, 1) if bounded else lam
    scales = scales if granularity == "tensor" else scales[:, None].expand(-1, len(tau))
    expected = {n: w.to(base[n].dtype) for n, w in twin.scaled_merge(base, tau, scales).items()}
    loss(expected).backward()
    weights = merge.weights()
    assert all(torch.equal(weights[n], base[n]) for n in base if n not in tau)
    for n, w in expected.items():
        torch.testing.assert_close(weights[n], w)
    loss(weights).backward()
    merge.backward_from({n: weights[n].grad for n in tau})
    # bf16 gradients differ by their own rounding wherever the two forwards round apart
    close = 1e-5 if base["w0"].dtype == torch.float32 else 0.1
    torch.testing.assert_close(merge.coefficients.grad, lam.grad, rtol=close, atol=close)
    merge.backward_from({})  # adds nothing
    torch.testing.assert_close(merge.coefficients.grad, lam.grad, rtol=close, atol=close)
    assert list(merge.state_dict()) == ["coefficients"]


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


# --- AdaMerging --------------------------------------------------------------------------------


class TwoTasks(nn.Module):
    """A small body, merged, and one frozen head a task: digits 0 to 4 and digits 5 to 9."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU())
        self.low, self.high = nn.Linear(32, 5), nn.Linear(32, 5)

    def forward(self, weights, task, x):
        return (self.low if task == "low" else self.high)(functional_call(self.body, weights, (x,)))


@cache
def digits():
    """The model, its base body, two bodies tuned on a task each, and unlabelled inputs."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = TwoTasks()
    bunch = load_digits()
    x, y = torch.tensor(bunch.data / 16, dtype=torch.float32), torch.tensor(bunch.target)
    rows = {"low": x[y < 5], "high": x[y >= 5]}
    labels = {"low": y[y < 5], "high": y[y >= 5] - 5}

    def train(tasks, parameters, steps, lr):
        adam = torch.optim.Adam(parameters, lr=lr)
        for _ in range(steps):
            body = dict(model.body.named_parameters())
            losses = [
                nn.functional.cross_entropy(model(body, t, rows[t][:400]), labels[t][:400])
                for t in tasks
            ]
            adam.zero_grad()
            sum(losses).backward()
            adam.step()
        return {n: w.detach().clone() for n, w in model.body.state_dict().items()}

    base = train(["low", "high"], model.parameters(), 10, 3e-3)
    tuned = []
    for task in ("low", "high"):
        model.body.load_state_dict(base)
        tuned.append(train([task], model.body.parameters(), 40, 1e-2))
    pool = {task: some[400:] for task, some in rows.items()}
    return model.requires_grad_(False), base, deltas(base, tuned), pool


def draws(pool):
    def draw(some):
        return lambda step: some[(torch.arange(32) + 32 * step) % len(some)]

    return {task: draw(some) for task, some in pool.items()}


KINDS = {"low": "classes", "high": "classes"}


@pytest.mark.parametrize("granularity", ["task", "tensor"])
def test_adamerging_lowers_entropy_on_digits(granularity):
    model, base, tau, pool = digits()

    def entropy(weights):
        return sum(prediction_entropy(model(weights, t, x)).mean().item() for t, x in pool.items())

    merged = adamerging(model, base, tau, draws(pool), KINDS, granularity=granularity)
    before = entropy(STATIC["task_arithmetic"](base, tau, scale=0.3))
    assert entropy(merged.weights) < 0.9 * before
    assert merged.entropy.shape == (40, 2)
    assert merged.coefficients.shape == ((2, 4) if granularity == "tensor" else (2,))
    assert ((merged.coefficients >= 0) & (merged.coefficients <= 1)).all()
    assert merged.tensors == ("0.weight", "0.bias", "2.weight", "2.bias")
    assert sum(merged.predictions["low"]) == 8 * 32
    assert not any(w.requires_grad for w in merged.weights.values())
    assert merged.notes == ()


def test_the_first_step_is_autograds():
    """Adam's first moment after one step is 0.1 times the gradient."""
    model, base, tau, pool = digits()
    merged = adamerging(model, base, tau, draws(pool), KINDS, steps=1)
    lam = torch.full((2, 4), 0.3, requires_grad=True)
    weights = twin.scaled_merge(base, tau, lam)
    entropies = [prediction_entropy(model(weights, t, x[:32])).mean() for t, x in pool.items()]
    sum(entropies).backward()
    torch.testing.assert_close(merged.state["exp_avg"], 0.1 * lam.grad, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(merged.entropy[0], torch.stack(entropies).detach())
    assert "could travel" in merged.notes[0]


def test_resumed_is_uninterrupted():
    model, base, tau, pool = digits()
    saved = []
    whole = adamerging(model, base, tau, draws(pool), KINDS, steps=6, progress=saved.append)
    again = adamerging(model, base, tau, draws(pool), KINDS, steps=6, resume=saved[2])
    assert len(saved) == 6
    assert all(torch.equal(whole.state[name], t) for name, t in again.state.items())
    assert all(torch.equal(whole.weights[name], w) for name, w in again.weights.items())
    assert all(isinstance(t, torch.Tensor) for t in saved[2].values())
    with pytest.raises(TaskgroveError, match="the state to resume"):
        adamerging(model, base, tau, draws(pool), KINDS, granularity="task", resume=saved[2])


def test_plus_learns_on_cleaned_vectors():
    model, base, tau, pool = digits()
    plus = adamerging(model, base, tau, draws(pool), KINDS, steps=2, plus=True, density=0.3)
    plain = adamerging(model, base, clean(tau, 0.3), draws(pool), KINDS, steps=2)
    assert same_bits(plus.weights, plain.weights)


def test_bf16_labels_numbers_and_a_collapse_are_handled():
    base = {"w": torch.zeros(3, 2, dtype=torch.bfloat16)}
    tau = deltas(base, [{"w": torch.tensor([[1.0, -1.0]] * 3).bfloat16()}])
    ones = {task: lambda _: torch.ones(4, 3).bfloat16() for task in ("topic", "tags")}
    kinds = {"topic": "classes", "tags": "labels", "price": "number"}
    merged = adamerging(lambda w, _, x: x @ w["w"], base, tau, ones, kinds)
    assert merged.tasks == ("topic", "tags")
    assert list(merged.predictions) == ["topic"]
    assert merged.weights["w"].dtype == torch.bfloat16
    assert merged.coefficients.item() > 0.5
    assert '"price": no entropy' in merged.notes[0]
    assert 'task "topic": one class takes 100%' in merged.notes[1]


def test_tied_weights_and_batch_norm_learn_through_functional_call():
    class Words(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.norm = nn.Embedding(7, 4), nn.BatchNorm1d(4)
            self.out = nn.Linear(4, 7, bias=False)
            self.out.weight = self.words.weight

        def forward(self, ids):
            return self.out(self.norm(self.words(ids)))

    model = Words().eval()
    base = model.state_dict()
    tuned = {n: w + 1 for n, w in base.items()} | {"out.weight": base["out.weight"] + 1}
    merged = adamerging(
        lambda weights, _, ids: functional_call(model, weights, (ids,)),
        base,
        deltas(base, [tuned]),
        {"next": lambda _: torch.arange(7)},
        {"next": "classes"},
        steps=3,
    )
    moved = {
        name
        for name, c in zip(merged.tensors, merged.coefficients[0].tolist(), strict=True)
        if abs(c - 0.3) > 1e-6
    }
    assert moved == {"words.weight", "norm.weight", "norm.bias"}
    assert merged.weights["out.weight"] is merged.weights["words.weight"]


def test_labels_cannot_be_reached_and_mistakes_are_told():
    names = inspect.signature(adamerging).parameters
    assert not [n for n in names if "label" in n.replace("unlabelled", "") or "target" in n]
    assert not [n for n in names if "loss" in n or "objective" in n or "metric" in n]
    seen = []

    def forward(weights, task, inputs):
        seen.append((set(weights), task, inputs))
        return inputs @ weights["w"]

    base, tau, x = {"w": torch.zeros(3, 2)}, {"w": torch.ones(1, 3, 2)}, torch.ones(4, 3)
    adamerging(forward, base, tau, {"a": lambda _: x}, {"a": "classes"}, steps=1)
    assert all(call == ({"w"}, "a", x) for call in seen)  # just what was drawn
    run = {"forward": forward, "base": base, "deltas": tau}
    for unlabelled, kinds, words in [
        ({"a": lambda _: x}, {"a": "number"}, 'none of the tasks "a" has classes'),
        ({"a": lambda _: x}, {"a": "classs"}, 'Did you mean "classes"'),
        ({"a": lambda _: x}, {"a": "classes", "b": "labels"}, 'tasks "b" have only one'),
        ({"a": lambda _: x, "A": lambda _: x}, {"a": "classes"}, 'tasks "A" have only one'),
        ({"a": lambda _: x[:0]}, {"a": "classes"}, 'task "a", step 0: the entropy is nan'),
    ]:
        with pytest.raises(TaskgroveError, match=words):
            adamerging(**run, unlabelled=unlabelled, kinds=kinds)
    with pytest.raises(TaskgroveError, match="does not depend on the weights"):
        adamerging(lambda *given: given[2], base, tau, {"a": lambda _: x}, {"a": "classes"})
    with pytest.raises(TaskgroveError, match="expected above 0"):
        adamerging(**run, unlabelled={"a": lambda _: x}, kinds={"a": "classes"}, steps=0)
