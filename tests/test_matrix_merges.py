"""Fisher, RegMean, TSV-Merge, Iso-C: their twins, their properties, and folders beside models."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from reference import matrix_merges as twin
from taskgrove.errors import TaskgroveError
from taskgrove.merging import in_memory
from taskgrove.merging.plan import Recipe, plan
from taskgrove.merging.static.singular import WIDEST, layers, svd
from taskgrove.merging.static.table import STATIC
from taskgrove.merging.static.tsv import orthogonal
from taskgrove.merging.stream import merge

quick = settings(max_examples=25, deadline=None)
MATRIX = ("iso_c", "tsv")
SIZES = st.tuples(st.integers(1, 9), st.integers(1, 9))
F8 = np.float64


def models(seed, count, shapes, dtype=F8):
    rng = np.random.default_rng(seed)
    base = {name: np.asarray(rng.normal(size=s), dtype) for name, s in shapes.items()}
    tuned = [
        {n: np.asarray(w + 0.3 * rng.normal(size=w.shape), dtype) for n, w in base.items()}
        for _ in range(count)
    ]
    return base, tuned


def close(a, b, **tolerance):
    np.testing.assert_allclose(a, b, **{"rtol": 1e-9, "atol": 1e-9, **tolerance})


# --- all of them -------------------------------------------------------------------------------


def beside_of(method, tuned, seed=0):
    """Made-up statistics that a method can read."""
    rng = np.random.default_rng(seed)
    if method == "fisher":
        return {
            "fisher": [{n: np.asarray(rng.random(w.shape)) for n, w in m.items()} for m in tuned]
        }
    if method == "regmean":
        inputs = [
            {n: rng.normal(size=(30, w.shape[1])) for n, w in m.items() if w.ndim == 2}
            for m in tuned
        ]
        return {"gram": [{n: X.T @ X / len(X) for n, X in m.items()} for m in inputs]}
    return None


@pytest.mark.parametrize("method", ["fisher", "regmean", *MATRIX])
@quick
@given(seed=st.integers(0, 99), shape=SIZES, count=st.integers(1, 4))
def test_the_order_of_models_is_irrelevant_and_equal_models_stay(method, seed, shape, count):
    base, tuned = models(seed, count, {"w": shape, "v": shape[:1], "s": ()})
    beside = beside_of(method, tuned)
    turned = beside and {kind: each[::-1] for kind, each in beside.items()}
    one = in_memory.merged(method, base, tuned, beside=beside)
    other = in_memory.merged(method, base, tuned[::-1], beside=turned)
    same = in_memory.merged(method, base, [base] * count, beside=beside)
    for name, w in base.items():
        close(one[name], other[name], rtol=1e-6, atol=1e-7)
        np.testing.assert_array_equal(same[name], w)


@pytest.mark.parametrize("method", ["fisher", "regmean"])
@quick
@given(seed=st.integers(0, 99), shape=SIZES, count=st.integers(1, 4))
def test_no_base_is_needed_where_the_result_is_a_mean(method, seed, shape, count):
    base, tuned = models(seed, count, {"w": shape, "v": shape[:1]})
    beside = beside_of(method, tuned)
    with_base = in_memory.merged(method, base, tuned, beside=beside)
    without = in_memory.merged(method, None, tuned, beside=beside)
    for name in base:
        close(with_base[name], without[name], rtol=1e-5, atol=1e-5)


# --- Fisher ------------------------------------------------------------------------------------


@quick
@given(
    seed=st.integers(0, 99),
    count=st.integers(1, 4),
    dead=st.booleans(),
    weigh=st.booleans(),
    tiny=st.sampled_from([1.0, 1e-12]),
)
def test_fisher_is_its_twin(seed, count, dead, weigh, tiny):
    base, tuned = models(seed, count, {"w": (5, 3), "v": (4,)})
    rng = np.random.default_rng(seed)
    fishers = [{n: tiny * rng.random(w.shape) ** 4 for n, w in base.items()} for _ in tuned]
    for F in fishers if dead else ():
        F["v"][:2] = 0  # no model cares
    weights = tuple(1.0 + k for k in range(count)) if weigh else (1.0,) * count
    given_ = {"weights": weights} if weigh else {}
    got = in_memory.merged("fisher", base, tuned, given_, beside={"fisher": fishers})
    for name in base:
        each = [[model[name] for model in some] for some in (tuned, fishers)]
        close(got[name], twin.fisher(*each, weights))


def test_a_normalised_fisher_counts_each_model_alike():
    base, tuned = models(0, 2, {"w": (5, 3), "v": (4,)})
    fishers = beside_of("fisher", tuned)["fisher"]
    loud = [fishers[0], {n: 1e6 * F for n, F in fishers[1].items()}]
    got = {
        name: in_memory.merged("fisher", base, tuned, {"normalise": True}, beside={"fisher": F})
        for name, F in (("plain", fishers), ("loud", loud))
    }
    norm = [np.sqrt(sum((F**2).sum() for F in each.values())) for each in fishers]
    for name in base:
        close(got["plain"][name], got["loud"][name])
        even = [F[name] / n for F, n in zip(fishers, norm, strict=True)]
        close(got["plain"][name], twin.fisher([m[name] for m in tuned], even, (1, 1)))
    nothing = [fishers[0], {n: 0 * F for n, F in fishers[1].items()}]
    with pytest.raises(TaskgroveError, match="the Fisher of tuned model 2 is all 0"):
        in_memory.merged("fisher", base, tuned, {"normalise": True}, beside={"fisher": nothing})


@pytest.mark.parametrize(
    ("parameters", "F", "words"),
    [
        ({"weights": (0.0, 0.0)}, 1.0, "expected numbers from 0 on, not all 0"),
        ({"weights": (1.0, -1.0)}, 1.0, "expected numbers from 0 on"),
        ({}, -1.0, 'a Fisher of "w" is below 0'),
        ({}, np.nan, 'tensor "w" of fisher of tuned model 1 holds NaN'),
    ],
)
def test_fisher_refuses_what_is_none(parameters, F, words):
    base, tuned = models(0, 2, {"w": (2, 2)})
    fishers = [{"w": np.full((2, 2), F)}] * 2
    with pytest.raises(TaskgroveError, match=words):
        in_memory.merged("fisher", base, tuned, parameters, beside={"fisher": fishers})


# --- RegMean -----------------------------------------------------------------------------------


def gram(X):
    return X.T @ X / len(X)


@quick
@given(
    seed=st.integers(0, 99),
    shape=SIZES,
    count=st.integers(1, 4),
    alpha=st.sampled_from([0.0, 0.5, 0.9]),
    turned=st.booleans(),
)
def test_regmean_is_its_twin(seed, shape, count, alpha, turned):
    """Inputs differ in size by orders of magnitude, as a transformer's do."""
    rng = np.random.default_rng(seed)
    base, tuned = models(seed, count, {"w": shape, "b": shape[:1]})
    size = 10.0 ** rng.integers(-2, 3, size=shape[1])
    inputs = [size * rng.normal(size=(40, shape[1])) for _ in tuned]
    expected = twin.regmean([model["w"] for model in tuned], inputs, alpha)
    grams = [{"w": gram(X)[None] if turned else gram(X)} for X in inputs]
    if turned:  # the weight is [in out], as GPT-2's
        base, *tuned = [{**model, "w": model["w"].T.copy()} for model in (base, *tuned)]
    got = in_memory.merged("regmean", base, tuned, {"alpha": alpha}, beside={"gram": grams})
    close(got["w"].T if turned else got["w"], expected, rtol=1e-4, atol=1e-4)
    close(got["b"], np.mean([model["b"] for model in tuned], axis=0))


def test_regmean_at_alpha_one_keeps_what_each_model_does_on_its_own_inputs():
    """Inputs of two models in orthogonal subspaces: both outputs can be kept exactly."""
    rng = np.random.default_rng(0)
    base, tuned = models(0, 2, {"w": (4, 6)})
    first, second = np.zeros((20, 6)), np.zeros((30, 6))
    first[:, :3], second[:, 3:5] = rng.normal(size=(20, 3)), rng.normal(size=(30, 2))
    grams = [{"w": gram(X)} for X in (first, second)]
    got = in_memory.merged("regmean", base, tuned, {"alpha": 1.0}, beside={"gram": grams})["w"]
    close(first @ got.T, first @ tuned[0]["w"].T, rtol=1e-4, atol=1e-4)
    close(second @ got.T, second @ tuned[1]["w"].T, rtol=1e-4, atol=1e-4)
    close(got[:, 5], (tuned[0]["w"] + tuned[1]["w"])[:, 5] / 2)  # an input that is always 0


@quick
@given(seed=st.integers(0, 99), shape=SIZES)
def test_regmean_of_equal_grams_and_at_alpha_zero_of_equal_diagonals_is_the_mean(seed, shape):
    base, tuned = models(seed, 3, {"w": shape})
    X = np.random.default_rng(seed).normal(size=(40, shape[1]))
    mean = np.mean([model["w"] for model in tuned], axis=0)
    got = in_memory.merged("regmean", base, tuned, beside={"gram": [{"w": gram(X)}] * 3})
    close(got["w"], mean, rtol=1e-5, atol=1e-5)


def test_regmean_refuses_grams_that_are_none():
    base, tuned = models(0, 2, {"w": (2, 2)})
    wrong = [{"w": np.array([[1.0, 5.0], [5.0, 1.0]])}] * 2
    with pytest.raises(TaskgroveError, match='the Gram matrices of "w" cannot be inverted'):
        in_memory.merged("regmean", base, tuned, {"alpha": 1.0}, beside={"gram": wrong})
    with pytest.raises(TaskgroveError, match=r"alpha is 1\.5; expected a number from 0 to 1"):
        in_memory.merged("regmean", base, tuned, {"alpha": 1.5}, beside={"gram": wrong})


# --- TSV-Merge and Iso-C -----------------------------------------------------------------------


@pytest.mark.parametrize("method", MATRIX)
@quick
@given(
    seed=st.integers(0, 99),
    shape=st.tuples(st.integers(4, 9), st.integers(4, 9)),
    count=st.integers(1, 4),
    scale=st.sampled_from([1.0, -0.5]),
)
def test_matrices_are_their_twins_and_other_tensors_the_scaled_mean(
    method, seed, shape, count, scale
):
    base, tuned = models(seed, count, {"w": shape, "v": (5,), "conv": (2, 3, 2), "s": ()})
    got = in_memory.merged(method, base, tuned, {"scale": scale})
    deltas = [model["w"] - base["w"] for model in tuned]
    close(got["w"], getattr(twin, method)(base["w"], deltas, scale), rtol=1e-6, atol=1e-6)
    for name in ("v", "conv", "s"):
        mean = np.mean([model[name] for model in tuned], axis=0)
        close(got[name], base[name] + scale * (mean - base[name]))


@quick
@given(seed=st.integers(0, 99), shape=SIZES)
def test_tsv_of_one_model_is_that_model(seed, shape):
    base, tuned = models(seed, 1, {"w": shape})
    close(in_memory.merged("tsv", base, tuned)["w"], tuned[0]["w"])


def test_tsv_keeps_tasks_that_do_not_meet():
    """Two tasks of low rank with orthogonal rows and columns are summed unchanged."""
    rng = np.random.default_rng(0)
    Q, P = (np.linalg.qr(rng.normal(size=(6, 6)))[0] for _ in range(2))
    deltas = [Q[:, :2] @ np.diag([3.0, 1.0]) @ P[:2], Q[:, 3:5] @ np.diag([2.0, 0.5]) @ P[4:]]
    got = in_memory.merged("tsv", {"w": np.zeros((6, 6))}, [{"w": tau} for tau in deltas])["w"]
    close(got, sum(deltas))


@quick
@given(seed=st.integers(0, 99), rank=st.integers(1, 3))
def test_a_lora_has_no_directions_but_its_own(seed, rank):
    """In fp32, where the rest of the spectrum is rounding, whose directions are chance."""
    rng = np.random.default_rng(seed)
    base = rng.normal(size=(8, 10)).astype("f4")
    B, A = rng.normal(size=(8, rank)), rng.normal(size=(rank, 10))
    tuned = [{"w": (base + scale * B @ A).astype("f4")} for scale in (0.5, 0.1)]
    for method in ("tsv", "iso_c"):
        change = in_memory.merged(method, {"w": base}, tuned)["w"] - base
        sigma = np.linalg.svd(change.astype(F8), compute_uv=False)
        assert (sigma[:rank] > 1e-2).all()
        assert (sigma[rank:] < 1e-5).all()
    close(sigma[:rank], sigma[:rank].mean(), rtol=1e-4)  # of Iso-C, the last


def test_the_singular_parts():
    X = np.random.default_rng(0).normal(size=(5, 3))
    close(orthogonal(X, "w").T @ orthogonal(X, "w"), np.eye(3))
    U, sigma, V = svd(np.diag([3.0, 2.0, 1e-17]), "w", most=5)
    assert (U.shape, sigma.tolist(), V.shape) == ((3, 2), [3.0, 2.0], (2, 3))
    assert len(svd(np.zeros((3, 4)), "w")[1]) == 0
    assert not layers((WIDEST, 8))
    with pytest.raises(TaskgroveError, match='singular values of "w" cannot be computed'):
        svd(np.full((2, 2), np.nan), "w")


def test_large_vocabularies_are_averaged_not_decomposed(monkeypatch):
    monkeypatch.setattr("taskgrove.merging.static.singular.WIDEST", 7)
    base, tuned = models(0, 2, {"embed": (7, 3), "w": (6, 3)})
    got = in_memory.merged("iso_c", base, tuned)
    close(got["embed"], np.mean([model["embed"] for model in tuned], axis=0))
    assert np.abs(got["w"] - np.mean([model["w"] for model in tuned], axis=0)).max() > 1e-3


# --- folders beside models ---------------------------------------------------------------------


def write(folder, arrays):
    folder.mkdir(parents=True)
    save_file(arrays, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "none"}))
    return str(folder)


@pytest.fixture
def folders(tmp_path):
    """{method: a recipe} over two tuned models, and what the merges must give."""
    base, tuned = models(0, 2, {"w": (6, 4), "v": (6,)}, np.float32)
    places = [write(tmp_path / f"t{k}", model) for k, model in enumerate(tuned)]
    found = {}
    for method in ("fisher", "regmean"):
        ((kind, arrays),) = beside_of(method, tuned).items()
        beside = [
            write(tmp_path / f"{kind}{k}", {n: a.astype("f4") for n, a in each.items()})
            for k, each in enumerate(arrays)
        ]
        found[method] = Recipe(
            method, tuple(places), write(tmp_path / f"base_{method}", base), beside={kind: beside}
        )
    return found, base, tuned


@pytest.mark.parametrize("method", ["fisher", "regmean"])
def test_folders_beside_models_give_what_arrays_do(method, folders, tmp_path):
    recipe, base, tuned = folders[0][method], *folders[1:]
    done = plan(recipe, threads=2)
    assert done.problems == []
    merge(done, tmp_path / "out")
    arrays = {
        k: [load_file(f"{p}/model.safetensors") for p in ps] for k, ps in recipe.beside.items()
    }
    expected = in_memory.merged(method, base, tuned, beside=arrays)
    got = load_file(tmp_path / "out/model.safetensors")
    for name in base:
        np.testing.assert_array_equal(got[name], expected[name])
    record = json.loads((tmp_path / "out/merge.json").read_text())
    assert record["recipe"]["beside"] == dict(recipe.beside)


def test_a_merge_knows_when_what_lies_beside_has_changed(folders):
    recipe = folders[0]["fisher"]
    before = plan(recipe).mark
    place = f"{recipe.beside['fisher'][0]}/model.safetensors"
    save_file({n: 2 * F for n, F in load_file(place).items()}, place)
    assert plan(recipe).mark != before


@pytest.mark.parametrize(
    ("method", "change", "words"),
    [
        ("fisher", lambda _: {}, "needs a fisher folder for each of the 2 models, got 0"),
        (
            "fisher",
            lambda b: {"fisher": b["fisher"][:1]},
            "each of the 2 models, got 1: write them",
        ),
        ("regmean", lambda _: {}, "give --gram F1 F2"),
        (
            "regmean",
            lambda b: {"fisher": b["gram"]},
            'regmean reads no "fisher" folders; .* "gram"',
        ),
        ("average", lambda b: b, 'average reads no "fisher" folders; it reads none'),
    ],
)
def test_folders_that_are_not_there_are_problems(method, change, words, folders):
    recipe = folders[0].get(method, folders[0]["fisher"])
    wrong = Recipe(method, recipe.tuned, recipe.base, beside=change(recipe.beside))
    with pytest.raises(TaskgroveError, match=words):
        raise TaskgroveError(" ".join(plan(wrong).problems))


@pytest.mark.parametrize(
    ("method", "arrays", "words"),
    [
        ("fisher", {"w": np.ones((6, 4), "f4")}, 'it lacks "v"'),
        ("fisher", {"w": np.ones((4, 6), "f4"), "v": np.ones(6, "f4")}, 'wrong shapes: "w"'),
        ("regmean", {"w": np.eye(6, dtype="f4")}, 'wrong shapes: "w"'),
        ("regmean", {"w": np.eye(4, dtype="f4"), "x": np.eye(2, dtype="f4")}, 'models lack "x"'),
        ("regmean", {"x": np.eye(4, dtype="f4")}, 'it lacks "w"; the models lack "x"'),
    ],
)
def test_folders_of_another_model_are_problems(method, arrays, words, folders, tmp_path):
    recipe = folders[0][method]
    ((kind, beside),) = recipe.beside.items()
    wrong = {kind: [beside[0], write(tmp_path / "wrong", arrays)]}
    problems = plan(Recipe(method, recipe.tuned, recipe.base, beside=wrong)).problems
    assert len(problems) == 1
    assert words in problems[0]


def test_what_a_method_reads_is_told():
    kinds = {name: STATIC[name].beside for name in STATIC if STATIC[name].beside}
    assert kinds == {"fisher": ("fisher",), "regmean": ("gram",)}
    assert all(STATIC[name].takes == "matrix" for name in (*MATRIX, "regmean"))
