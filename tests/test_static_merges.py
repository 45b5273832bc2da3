"""Static merges: twins on drawn shapes and blocks, properties, worked examples, errors."""

import math
from contextlib import contextmanager

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reference import static_merges as twin
from taskgrove.errors import TaskgroveError
from taskgrove.merging import blocks
from taskgrove.merging.in_memory import merged
from taskgrove.merging.static import (
    average,
    breadcrumbs,
    consensus,
    dare,
    della,
    model_stock,
    sce,
    slerp,
    task_arithmetic,
    ties,
    wise_ft,
)
from taskgrove.merging.static.random_numbers import least_unlikely, random_numbers
from taskgrove.merging.static.static import At
from taskgrove.merging.static.table import STATIC

METHODS = {
    module.__name__.rsplit(".", 1)[1]: module.METHOD
    for module in (
        average, breadcrumbs, consensus, dare, della, model_stock, sce, slerp, task_arithmetic,
        ties, wise_ft,
    )
}  # fmt: skip
BF16, FP16 = np.dtype(ml_dtypes.bfloat16), np.dtype(np.float16)
DTYPES = [BF16, FP16, np.dtype(np.float32), np.dtype(np.float64)]
SHAPES = st.lists(st.lists(st.integers(0, 4), max_size=3).map(tuple), min_size=1, max_size=2)
SETTING = {
    "shapes": SHAPES,  # () is a scalar, (0, 3) is empty
    "models": st.integers(1, 4),
    "dtype": st.sampled_from(DTYPES),
    "exact": st.booleans(),  # eighths: exact sums, equal magnitudes, cancellation; or normal
    "block": st.sampled_from([4, 7, 30, 1 << 15]),
    "seed": st.integers(0, 99),
}


def without(*names):
    return {name: drawn for name, drawn in SETTING.items() if name not in names}


quick = settings(max_examples=20, deadline=None)
wide = settings(max_examples=40, deadline=None)  # where the method is drawn too
SOME = {
    "average": {},
    "breadcrumbs": {"beta": 0.4, "gamma": 0.9, "scale": 1.0},
    "consensus": {"tasks": 1, "scale": 1.0},
    "dare": {"density": 0.6, "scale": 1.0},
    "della": {"density": 0.6},
    "model_stock": {},
    "sce": {"density": 0.5},
    "slerp": {"t": 0.3},
    "task_arithmetic": {"scale": 0.7},
    "ties": {"density": 0.5},
    "wise_ft": {"alpha": 0.3},
}
SUMS = {"model_stock", "sce", "slerp"}  # over blocks in order: bits are those of the fixed blocks


@pytest.fixture(scope="module", autouse=True)
def in_the_table():
    with pytest.MonkeyPatch.context() as patch:
        for name, method in METHODS.items():
            patch.setitem(STATIC, name, method)
        yield


@contextmanager
def blocks_of(size):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "BLOCK", size)
        yield


def models_of(shapes, models, dtype, seed, exact=True):
    rng = np.random.default_rng(seed)

    def draw(shape, most):
        grid = rng.integers(-most, most + 1, shape) / 8
        return np.asarray(grid if exact else rng.normal(0, most / 16, shape))

    base = {f"w{i}": draw(shape, 16).astype(dtype) for i, shape in enumerate(shapes)}
    base["position_ids"] = np.arange(3)
    tuned = [mapped(base, lambda w: (w + draw(w.shape, 6)).astype(w.dtype)) for _ in range(models)]
    return base, tuned


def mapped(model, function):
    """The floating tensors changed; a 0-d array stays one."""
    return {n: np.asarray(function(w)) if n[0] == "w" else w for n, w in model.items()}


def count_of(method, models):
    least, most = METHODS[method].models
    return max(least, min(models, most or models))


def flat(model):
    return np.concatenate([w.reshape(-1) for n, w in model.items() if n[0] == "w"])


def one_rounding(got, want):
    """Equal up to one rounding to the dtype of `got`, and what fp32 sums may be off."""
    bits = {BF16: 8, FP16: 11}.get(got.dtype, 22)
    want, got = np.asarray(want, float), got.astype(float)
    size = np.maximum(abs(want), 2.0**-14)
    room = 2.0 ** (np.floor(np.log2(size)) + 1 - bits) + 4e-6 * max(1, abs(want).max(initial=0))
    assert got.shape == want.shape
    assert (abs(got - want) <= room).all(), (got, want)


def same_bits(a, b):
    return a.keys() == b.keys() and all(
        a[n].dtype == b[n].dtype and a[n].shape == b[n].shape and a[n].tobytes() == b[n].tobytes()
        for n in a
    )


def agrees(method, setting, parameters, expected):
    """`expected(base, tuned, name, **parameters)` is the twin of one tensor."""
    shapes, dtype, seed, exact = (setting[n] for n in ("shapes", "dtype", "seed", "exact"))
    models = count_of(method, setting["models"])
    base, tuned = models_of(shapes, models, dtype, seed, exact)
    with blocks_of(setting["block"]):
        result = merged(method, base, tuned, parameters)
    assert result["position_ids"].tolist() == [0, 1, 2]
    for name, w in base.items():
        if name[0] == "w":
            assert result[name].dtype == dtype
            one_rounding(result[name], expected(w, [t[name] for t in tuned], name))


# --- twins -------------------------------------------------------------------------------------


@quick
@given(st.fixed_dictionaries(SETTING), st.sampled_from([-1.0, 0.25, 0.3, 2.0]))
def test_average_and_task_arithmetic_are_their_twins(setting, scale):
    agrees("average", setting, {}, lambda w, t, _: twin.average(w, t))
    agrees(
        "task_arithmetic", setting, {"scale": scale},
        lambda w, t, _: twin.task_arithmetic(w, t, scale),
    )  # fmt: skip
    weights = [0.5, 1.0, 2.0, 3.0][: setting["models"]]
    agrees("average", setting, {"weights": weights}, lambda w, t, _: twin.average(w, t, weights))
    agrees(
        "task_arithmetic", setting, {"scale": weights},
        lambda w, t, _: twin.task_arithmetic(w, t, weights),
    )  # fmt: skip


@quick
@given(st.fixed_dictionaries(SETTING), st.floats(0, 1))
def test_wise_ft_and_slerp_are_their_twins(setting, share):
    agrees("wise_ft", setting, {"alpha": share}, lambda w, t, _: twin.wise_ft(w, t, share))
    agrees("slerp", setting, {"t": share}, lambda w, t, _: twin.slerp(w, t, share))


@quick
@given(st.fixed_dictionaries(SETTING), st.floats(0.01, 1), st.sampled_from([1.0, -0.5]))
def test_ties_is_its_twin_counted_over_a_tensor_and_over_the_model(setting, density, scale):
    parameters = {"density": density, "scale": scale}
    agrees(
        "ties", setting, {**parameters, "trim": "tensor"},
        lambda w, t, _: twin.ties(w, t, density, scale),
    )  # fmt: skip
    base, tuned = models_of(*(setting[n] for n in ("shapes", "models", "dtype", "seed", "exact")))
    with blocks_of(setting["block"]):
        result = merged("ties", base, tuned, parameters)
    one_rounding(flat(result), twin.ties(flat(base), [flat(t) for t in tuned], density, scale))


@quick
@given(
    st.fixed_dictionaries(SETTING),
    st.fixed_dictionaries(
        {
            "density": st.floats(0.05, 1),
            "scale": st.sampled_from([1.0, 0.3]),
            "rescale": st.booleans(),
            "combine": st.sampled_from(["sum", "ties"]),
        }
    ),
)
def test_dare_is_its_twin_given_the_masks(setting, parameters):
    def expected(w, t, name):
        drawn = [random_numbers(setting["seed"], k, name, 0, w.size) for k in range(len(t))]
        masks = np.array(drawn).reshape(len(t), *w.shape) <= least_unlikely(parameters["density"])
        return twin.dare(w, t, masks, **parameters)

    agrees("dare", setting, {**parameters, "seed": setting["seed"]}, expected)


@quick
@given(
    st.fixed_dictionaries(SETTING),
    st.floats(0, 0.95),
    st.floats(0.01, 1),
    st.sampled_from([1.0, 0.3]),
)
def test_breadcrumbs_is_its_twin(setting, beta, upper, scale):
    parameters = {"beta": beta, "gamma": min(1.0, beta + upper), "scale": scale}
    agrees("breadcrumbs", setting, parameters, lambda w, t, _: twin.breadcrumbs(w, t, **parameters))


@quick
@given(
    st.fixed_dictionaries(SETTING),
    st.floats(0.1, 1),
    st.just(0.0) | st.floats(0.01, 1),  # a spread near 0 leaves a draw on the edge of its chance
    st.booleans(),
)
def test_della_is_its_twin_given_the_draws(setting, density, spread, rescale):
    epsilon = spread * 2 * min(density, 1 - density) * 0.99
    parameters = {"density": density, "epsilon": epsilon, "scale": 0.5, "rescale": rescale}

    def expected(w, t, name):
        drawn = [random_numbers(setting["seed"], k, name, 0, w.size) for k in range(len(t))]
        return twin.della(w, t, np.array(drawn) / 2**32, **parameters)

    agrees("della", setting, {**parameters, "seed": setting["seed"]}, expected)


@quick
@given(st.fixed_dictionaries(SETTING))
def test_model_stock_is_its_twin(setting):
    agrees("model_stock", setting, {}, lambda w, t, _: twin.model_stock(w, t))


@quick
@given(st.fixed_dictionaries(SETTING), st.floats(0.01, 1), st.sampled_from([1.0, 0.3]))
def test_sce_is_its_twin(setting, density, scale):
    parameters = {"density": density, "scale": scale}
    agrees("sce", setting, parameters, lambda w, t, _: twin.sce(w, t, **parameters))


@quick
@given(
    st.fixed_dictionaries(SETTING),
    st.sampled_from([0.0, 0.25, 0.5, 1.0, [0.25, 0.5, 0.125, 1.0]]),
    st.integers(0, 4),
)
def test_consensus_is_its_twin(setting, threshold, tasks):
    models = setting["models"]
    threshold = threshold[:models] if isinstance(threshold, list) else threshold
    parameters = {"threshold": threshold, "tasks": min(tasks, models), "scale": 0.5}
    agrees("consensus", setting, parameters, lambda w, t, _: twin.consensus(w, t, **parameters))


# --- properties of all -------------------------------------------------------------------------


@wide
@given(method=st.sampled_from(sorted(METHODS)), **SETTING)
def test_inputs_stay_and_blocks_do_not_matter(method, shapes, models, dtype, exact, block, seed):
    base, tuned = models_of(shapes, count_of(method, models), dtype, seed, exact)
    before = [{n: w.copy() for n, w in model.items()} for model in (base, *tuned)]
    result = merged(method, base, tuned, SOME[method])
    with blocks_of(block):
        again = merged(method, base, tuned, SOME[method])
    if method not in SUMS:
        assert same_bits(result, again)
    for name, w in result.items():
        one_rounding(again[name], w.astype(float))
        w[...] = 0  # nor does the result share memory with the inputs
    assert all(same_bits(a, b) for a, b in zip(before, (base, *tuned), strict=True))


@wide
@given(method=st.sampled_from(sorted(METHODS)), **SETTING)
def test_models_that_are_the_base_give_the_base(method, shapes, models, dtype, exact, block, seed):
    base, _ = models_of(shapes, 1, dtype, seed, exact)
    base = mapped(base, np.negative)  # has negative zeros
    models = count_of(method, models)
    with blocks_of(block):
        same = merged(method, base, [base] * models, SOME[method])
        assert same_bits(same, base)
        for name, w in base.items():  # and not only because nothing is computed for such blocks
            if name[0] == "w" and w.size > 1:
                other = {**base, name: w.copy()}
                other[name].reshape(-1)[-1] += 1
                result = merged(method, base, [other] * models, SOME[method])[name]
                one_rounding(result.reshape(-1)[:-1], w.reshape(-1)[:-1].astype(float))


ALL_OF_ONE = st.sampled_from(
    [
        ("average", {}),
        ("task_arithmetic", {"scale": 1.0}),
        ("wise_ft", {"alpha": 1.0}),
        ("ties", {"density": 1.0}),
        ("dare", {"density": 1.0, "scale": 1.0}),
        ("dare", {"density": 1.0, "scale": 1.0, "combine": "ties"}),
        ("della", {"density": 1.0}),
        ("breadcrumbs", {"beta": 0.0, "gamma": 1.0, "scale": 1.0}),
        ("sce", {"density": 0.3}),
        ("consensus", {"tasks": 1, "scale": 1.0}),
    ]
)


@wide
@given(choice=ALL_OF_ONE, **SETTING)
def test_one_model_that_is_kept_whole_is_that_model(
    choice, shapes, models, dtype, exact, block, seed
):
    method, parameters = choice
    base, (tuned, *_) = models_of(shapes, models, dtype, seed, exact)
    with blocks_of(block):
        result = merged(method, base, [tuned], parameters)
    for name, w in tuned.items():
        if exact:
            assert (result[name] == w).all()
        one_rounding(result[name], w.astype(float))


@wide
@given(
    method=st.sampled_from(sorted(METHODS.keys() - {"dare", "della", "sce", "slerp", "wise_ft"})),
    **without("exact"),
)
def test_order_of_models_is_irrelevant(method, shapes, models, dtype, block, seed):
    base, tuned = models_of(shapes, count_of(method, models), dtype, seed)
    with blocks_of(block):
        result = merged(method, base, tuned, SOME[method])
        backwards = merged(method, base, tuned[::-1], SOME[method])
    for name, w in result.items():
        one_rounding(backwards[name], w.astype(float))


def test_order_of_models_is_irrelevant_to_sce_where_no_variances_tie():
    """Variances that are equal but for rounding fall on either side of the threshold."""
    rng = np.random.default_rng(0)
    base = {"w": rng.normal(size=(40, 30)).astype("f4")}
    tuned = [{"w": base["w"] + 0.1 * rng.normal(size=(40, 30)).astype("f4")} for _ in range(3)]
    result, backwards = (merged("sce", base, t, SOME["sce"])["w"] for t in (tuned, tuned[::-1]))
    np.testing.assert_allclose(result, backwards, rtol=1e-4, atol=1e-6)
    assert np.abs(result - base["w"]).max() > 0.01


@wide
@given(method=st.sampled_from(sorted(METHODS)), **without("dtype"))
def test_twice_the_task_vectors_twice_the_change(method, shapes, models, exact, block, seed):
    base, tuned = models_of(shapes, count_of(method, models), np.dtype(np.float32), seed, exact)
    base = mapped(base, np.zeros_like)
    twice = [mapped(model, lambda w: 2 * w) for model in tuned]
    with blocks_of(block):
        result = merged(method, base, tuned, SOME[method])
        doubled = merged(method, base, twice, SOME[method])
    for name, w in mapped(result, lambda w: 2 * w).items():
        np.testing.assert_array_equal(doubled[name], w)


@wide
@given(
    method=st.sampled_from(["task_arithmetic", "ties", "dare", "della", "breadcrumbs", "sce"]),
    **SETTING,
)
def test_scale_zero_is_the_base(method, shapes, models, dtype, exact, block, seed):
    base, tuned = models_of(shapes, models, dtype, seed, exact)
    with blocks_of(block):
        result = merged(method, base, tuned, {**SOME[method], "scale": 0.0})
    assert all((result[name] == w).all() for name, w in base.items())


@quick
@given(**without("dtype", "block"))
def test_task_arithmetic_at_one_kth_and_agreeing_ties_are_the_average(shapes, models, exact, seed):
    base, tuned = models_of(shapes, models, np.dtype(np.float32), seed, exact)
    mean = merged("average", base, tuned)
    kth = merged("task_arithmetic", base, tuned, {"scale": 1 / models})
    up = [
        {**t, **{n: np.asarray(w + abs(t[n] - w) + w.dtype.type(0.125)) for n, w in base.items()}}
        for t in tuned
    ]
    up = [{**model, "position_ids": base["position_ids"]} for model in up]
    agreeing, mean_up = merged("ties", base, up, {"density": 1.0}), merged("average", base, up)
    for name in base:
        one_rounding(kth[name], mean[name].astype(float))
        one_rounding(agreeing[name], mean_up[name].astype(float))


# --- worked examples ---------------------------------------------------------------------------


def merge_vectors(method, vectors, parameters=None):
    base = {"w": np.zeros(len(vectors[0]), np.float32)}
    tuned = [{"w": np.array(vector, np.float32)} for vector in vectors]
    return merged(method, base, tuned, parameters or {})["w"]


def test_ties_by_hand():
    """Three models, five coordinates, each model keeps its three largest (60 %):

    A   .   3  -2   .   1
    B   4   .   2  -1   .       2 - 2 cancels: no sign is elected, nothing is kept
    C   .   1   .  -3   5
    """
    vectors = [[0.5, 3, -2, 0, 1], [4, 0.25, 2, -1, 0.5], [0.5, 1, 0, -3, 5]]
    assert merge_vectors("ties", vectors, {"density": 0.6}).tolist() == [4, 2, 0, -2, 3]


def kept(vectors, method, parameters):
    return [int((merge_vectors(method, [v], parameters) != 0).sum()) for v in vectors]


def test_trims_count_exactly_and_keep_all_that_tie():
    rng = np.random.default_rng(0)
    base = {"a": np.zeros((7, 10), np.float32), "b": np.zeros(30, np.float32)}
    tuned = [{"a": rng.permutation(70).reshape(7, 10) + 1, "b": np.arange(71, 101)}]
    tuned = [{n: w.astype(np.float32) for n, w in tuned[0].items()}]
    for density, count in [(0.2, 20), (0.001, 1), (1.0, 100), (0.5, 50)]:
        assert (
            np.count_nonzero(flat_all(merged("ties", base, tuned, {"density": density}))) == count
        )
    whole = merged("ties", base, tuned, {"density": 0.2})
    assert not whole["a"].any()  # counted over the whole model: all 20 are in "b"
    each = merged("ties", base, tuned, {"density": 0.2, "trim": "tensor"})
    assert [np.count_nonzero(w) for w in each.values()] == [14, 6]
    assert kept([[1] * 10, [0] * 9 + [1]], "ties", {"density": 0.2}) == [10, 1]
    edges = {"beta": 0.3, "gamma": 0.9, "scale": 1.0}
    assert kept([range(1, 11), [1] * 10, [1] * 4 + [2] * 6], "breadcrumbs", edges) == [6, 10, 10]
    assert kept([[7], [7, 8]], "breadcrumbs", {"beta": 0.1, "gamma": 0.25, "scale": 1.0}) == [1, 1]
    assert merge_vectors("breadcrumbs", [range(1, 11)], edges).tolist() == [
        0, 0, 0, 4, 5, 6, 7, 8, 9, 0,
    ]  # fmt: skip


def flat_all(model):
    return np.concatenate([w.reshape(-1) for w in model.values()])


def test_slerp_stays_on_the_arc():
    x, y = np.eye(2, dtype=np.float32) * 3
    for t in (0.0, 0.25, 0.5, 1.0):
        half = merged("slerp", None, [{"w": x}, {"w": y}], {"t": t})["w"]
        expected = [3 * math.cos(t * math.pi / 2), 3 * math.sin(t * math.pi / 2)]
        np.testing.assert_allclose(half, expected, atol=1e-6)
    for other in (x * 2, -x, x * 0):  # parallel, opposite, none: the chord
        chord = merged("slerp", None, [{"w": x}, {"w": other}], {"t": 0.25})["w"]
        np.testing.assert_allclose(chord, 0.75 * x + 0.25 * other)
    rng = np.random.default_rng(0)
    near = {"w": rng.normal(size=4000)}  # nearer than |cos| = 0.9995: still the arc
    two = [near, {"w": near["w"] + 0.02 * rng.normal(size=4000)}]
    one = merged("slerp", near, two, {"t": 0.5})["w"]
    length = np.linalg.norm(two[0]["w"]) ** 0.5 * np.linalg.norm(two[1]["w"]) ** 0.5
    chord = np.linalg.norm((two[0]["w"] + two[1]["w"]) / 2)
    assert abs(np.linalg.norm(one) - length) < 1e-6 * length
    assert chord < length * (1 - 4e-5)


def test_slerp_backwards_is_slerp_from_the_other_end():
    base, tuned = models_of([(3, 4), (5,)], 2, np.dtype(np.float32), 0, False)
    there = merged("slerp", base, tuned, {"t": 0.3})
    back = merged("slerp", base, tuned[::-1], {"t": 0.7})
    without = merged("slerp", None, tuned, {"t": 0.3})
    for name, w in there.items():
        np.testing.assert_allclose(back[name], w, atol=1e-6)
        np.testing.assert_allclose(without[name], w, atol=1e-6)


def test_model_stock_by_its_angles():
    def ratio(*vectors):
        found = merge_vectors("model_stock", vectors)
        return found[0] / np.mean(vectors, axis=0)[0]

    s = math.sqrt(3) / 2
    np.testing.assert_allclose(ratio([1, 0.5], [1, 0.5]), 1, rtol=1e-6)  # 0 degrees: the average
    np.testing.assert_allclose(ratio([1, 1], [1, -1]), 0, atol=1e-7)  # 90: the base
    np.testing.assert_allclose(ratio([2, 0], [0.5, s]), 2 / 3, rtol=1e-6)  # 60: 2 c / (1 + c)
    np.testing.assert_allclose(ratio([2, 1], [-1, -1]), 0)  # more than 90
    np.testing.assert_allclose(ratio([1, 0], [0, 0]), 0)  # no angle
    three = ([1, 0, 0.5], [1, 0, 0.5], [0, 1.25**0.5, 0])  # cosines 1, 0, 0: their mean is 1 / 3
    np.testing.assert_allclose(ratio(*three), 3 / 3 / (1 + 2 / 3), rtol=1e-6)


def test_consensus_by_hand():
    vectors = [[1, 4, 1, 0, 2], [1, 0, 8, 0, -2], [1, 0, 8, 0, 1]]
    # A alone needs the second number, B and C the third: there A's others add 16, and 1 < 0.4 x 16
    merge = {"threshold": 0.4, "scale": 1.0}
    assert merge_vectors("consensus", vectors, {**merge, "tasks": 1}).tolist() == [3, 4, 17, 0, 1]
    assert merge_vectors("consensus", vectors, {**merge, "tasks": 2}).tolist() == [3, 0, 17, 0, 1]
    assert merge_vectors("consensus", vectors, {**merge, "tasks": 3}).tolist() == [3, 0, 0, 0, 1]
    vary = {**merge, "tasks": 3, "threshold": [0.05, 0.4, 0.4]}
    assert merge_vectors("consensus", vectors, vary).tolist() == [3, 0, 17, 0, 1]


def test_sce_by_hand():
    vectors = [[1, 3, 0, 2], [1, -1, 0, 2]]  # only the second number varies
    merge = {"density": 0.25}
    # eta: 9 / 10 and 1 / 10; the sum is 2, so -1 is erased and 3 has all the weight
    np.testing.assert_allclose(merge_vectors("sce", vectors, merge), [0, 3, 0, 0])
    both = [[4, 3], [2, 5]]  # variances 1 and 1: all tie; eta 25 / 54 and 29 / 54
    expected = [(4 * 25 + 2 * 29) / 54, (3 * 25 + 5 * 29) / 54]
    np.testing.assert_allclose(merge_vectors("sce", both, {"density": 0.5}), expected, rtol=1e-6)


# --- random masks ------------------------------------------------------------------------------


def test_random_numbers_depend_on_the_place_alone():
    whole = random_numbers(3, 1, "w", 0, 1000)
    for start, count in [(0, 1), (1, 7), (500, 500), (999, 1), (17, 0)]:
        assert random_numbers(3, 1, "w", start, count).tolist() == whole[start:][:count].tolist()
    across = random_numbers(3, 1, "w", (1 << 32) - 5, 10)
    assert across[:5].tolist() == random_numbers(3, 1, "w", (1 << 32) - 5, 5).tolist()
    assert across[5:].tolist() == random_numbers(3, 1, "w", 1 << 32, 5).tolist()
    assert across[5:].tolist() != whole[:5].tolist()
    assert whole.tolist() == twin.random_numbers(3, 1, "w", range(1000))
    assert across.tolist() == twin.random_numbers(3, 1, "w", range((1 << 32) - 5, (1 << 32) + 5))
    # merges of the past can be made again only while these stay
    assert whole[:3].tolist() == [2515261773, 3824061793, 1230894476]
    others = [(4, 1, "w"), (3, 0, "w"), (3, 1, "v"), (31, 1, "w"), (-3, 1, "w")]
    for other in others:
        assert np.mean(random_numbers(*other, 0, 1000) == whole) < 0.01


@pytest.mark.parametrize("density", [0.01, 0.1, 0.5, 0.9])
def test_masks_are_fair_and_independent(density):
    n, most = 1 << 18, least_unlikely(density)
    masks = [random_numbers(s, k, "w", 0, n) <= most for s in (0, 1) for k in (0, 1)]
    masks.append(random_numbers(0, 0, "v", 0, n) <= most)
    masks += [np.roll(masks[0], shift) for shift in (1, 2, 4, 64, 1024)]
    centred = (np.array(masks) - density) / math.sqrt(density * (1 - density))
    assert (abs(centred.mean(axis=1)) < 5 / math.sqrt(n)).all()
    correlation = centred @ centred.T / n
    np.fill_diagonal(correlation, 0)
    assert (abs(correlation) < 5.5 / math.sqrt(n)).all()
    runs = masks[0].reshape(-1, 64).sum(axis=1)  # binomial: neither clumped nor spread
    assert abs(runs.var() / (64 * density * (1 - density)) - 1) < 6 * math.sqrt(2 * 64 / n)


def test_least_unlikely_at_the_ends():
    assert least_unlikely(1.0) == (1 << 32) - 1
    assert least_unlikely(1e-300) == 0
    assert least_unlikely(0.5) == (1 << 31) - 1


@pytest.mark.parametrize("combine", ["sum", "ties"])
def test_dare_keeps_the_expectation(combine):
    vector = np.random.default_rng(0).normal(size=(1, 500))

    def once(seed, rescale=True):
        parameters = dare.Parameters(0.5, 1.0, seed, rescale, combine)
        return dare.dare(np.zeros(500), vector, parameters, At("w", (500,), 0))

    share = np.mean([once(seed) for seed in range(300)], axis=0) / vector
    assert abs(share.mean() - 1) < 0.02
    assert share.std() == pytest.approx(1 / math.sqrt(300), rel=0.15)
    plain = once(0, rescale=False)
    assert set(plain[plain != 0]) <= set(vector[0])


def test_della_drops_small_numbers_more_often_and_keeps_the_expectation():
    base = {"w": np.zeros((200, 50), np.float32)}
    rng = np.random.default_rng(0)
    rows = np.array([rng.permutation(50) + 1 for _ in range(200)], np.float32)
    rows *= 10.0 ** rng.integers(-3, 3, (200, 1))  # ranks are of the row, whatever its size
    parameters = {"density": 0.4, "epsilon": 0.6}
    stays, total = np.zeros((200, 50)), np.zeros((200, 50))
    for seed in range(40):
        found = merged("della", base, [{"w": rows}], {**parameters, "seed": seed})["w"]
        stays += found != 0
        total += found / rows
    order = np.argsort(rows, axis=1)
    share = np.take_along_axis(stays, order, axis=1).mean(axis=0) / 40
    expected = 0.7 - 0.6 * np.arange(50)[::-1] / 50  # p_min = 0.6 - 0.3 for the largest
    np.testing.assert_allclose(share, expected, atol=5 * math.sqrt(0.25 / 8000))
    mean = np.take_along_axis(total, order, axis=1).mean(axis=0) / 40
    np.testing.assert_allclose(mean, 1, atol=5 * math.sqrt(10 / 8000))


@quick
@given(st.integers(0, 4), st.integers(0, 9), st.sampled_from(DTYPES[2:]), st.integers(0, 99))
def test_ascending_is_a_stable_sort(rows, dim, dtype, seed):
    values = np.random.default_rng(seed).integers(-3, 4, (rows, dim)).astype(dtype)
    expected = np.argsort(abs(values), axis=1, kind="stable")
    assert della.ascending(values).tolist() == expected.tolist()


# --- errors ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "parameters", "words"),
    [
        ("wise_ft", {"alpha": 1.5}, "alpha is 1.5; expected from 0"),
        ("slerp", {"t": -0.1}, "t is -0.1; expected from 0"),
        ("ties", {"density": 0.0}, "density is 0.0; expected"),
        ("dare", {"density": 1.01}, "density is 1.01; expected"),
        ("dare", {"combine": "mean"}, 'combine is .mean.; expected "sum", "ties"'),
        ("dare", {"seed": 0.5}, "seed is 0.5; expected a whole number"),
        ("della", {"density": -1.0}, "density is -1.0; expected"),
        ("della", {"density": 0.1, "epsilon": 0.3}, "epsilon is 0.3; expected 0 to 0.2"),
        ("sce", {"density": 2}, "density is 2.0; expected"),
        ("breadcrumbs", {"beta": 0.9, "gamma": 0.8}, "beta is 0.9 and gamma 0.8; expected"),
        ("consensus", {"threshold": -1}, "threshold is -1.0; expected 0 or more"),
        ("consensus", {"threshold": [0.1, 0.2, 0.3]}, "3 values; expected one for each of the 2"),
        ("consensus", {"tasks": -1}, "tasks is -1; expected 0 or more"),
        ("consensus", {"tasks": 3}, "tasks is 3, but 2 models"),
        ("model_stock", {"t": 0.5}, 'model_stock has no parameter "t"'),
        ("average", {"weights": [1, -1]}, "sum to 0"),
        ("task_arithmetic", {"scale": math.inf}, "scale is inf"),
    ],
)
def test_mistakes_are_told(method, parameters, words):
    base, tuned = models_of([(4,)], 1 if method == "wise_ft" else 2, np.dtype(np.float32), 0)
    with pytest.raises(TaskgroveError, match=words):
        merged(method, base, tuned, parameters)


@pytest.mark.parametrize(
    ("method", "models", "words"),
    [
        ("wise_ft", 2, "wise_ft merges 1 models; got 2"),
        ("slerp", 3, "slerp merges 2 models; got 3"),
        ("slerp", 1, "slerp merges 2 models; got 1"),
        ("model_stock", 1, "model_stock merges 2 or more models; got 1"),
    ],
)
def test_counts_of_models_are_told(method, models, words):
    base, tuned = models_of([(4,)], models, np.dtype(np.float32), 0)
    with pytest.raises(TaskgroveError, match=words):
        merged(method, base, tuned)


@pytest.mark.parametrize("method", sorted(METHODS.keys() - {"average", "slerp"}))
def test_methods_of_task_vectors_need_a_base(method):
    _, tuned = models_of([(4,)], count_of(method, 2), np.dtype(np.float32), 0)
    with pytest.raises(TaskgroveError, match=f"{method} needs the base"):
        merged(method, None, tuned)


def test_a_block_is_merged_alone():
    """The function of a method needs no more than its arguments."""
    base, deltas = np.zeros(3, np.float32), np.ones((2, 3), np.float32)
    at = At("w", (9,), 3)
    first = dare.dare(base, deltas, dare.Parameters(density=0.5), at)
    whole = np.zeros(9, np.float32), np.ones((2, 9), np.float32)
    assert (first == dare.dare(*whole, dare.Parameters(density=0.5), At("w", (9,), 0))[3:6]).all()
