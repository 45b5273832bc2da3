"""Metrics, delta-m, the bootstrap and the verdict."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from taskgrove.errors import TaskgroveError
from taskgrove.measuring import (
    DEFAULT_METRIC,
    METRICS,
    Exam,
    bootstrap,
    delta_m,
    metric_for,
    relative_gain,
    verdict,
)
from taskgrove.measuring.draws import draw_rows, draw_seeds, pools

ACCURACY, R2, RMSE = METRICS["accuracy"], METRICS["r2"], METRICS["rmse"]
KINDS = [(metric.name, kind) for metric in METRICS.values() for kind in metric.kinds]
# Few different values, so that ties, constants and absent classes are common.
NUMBERS = st.integers(-8, 8).map(lambda n: n / 8)
SHARES = st.integers(0, 4).map(lambda n: n / 4)
SETTINGS = settings(max_examples=40, deadline=None)


@st.composite
def cases(draw, kind: str):
    """A prediction, its target and the counts of 4 resamples."""
    rows, classes = draw(st.integers(1, 8)), draw(st.integers(2, 4))
    if kind == "number":
        prediction = draw(arrays(np.float64, rows, elements=NUMBERS))
        target = draw(arrays(np.float64, rows, elements=NUMBERS))
    elif kind == "labels":
        prediction = draw(arrays(np.float64, (rows, classes), elements=SHARES))
        target = draw(arrays(np.int64, (rows, classes), elements=st.integers(0, 1)))
    else:
        prediction = draw(arrays(np.float64, (rows, classes), elements=SHARES)) + 0.125
        prediction /= prediction.sum(1, keepdims=True)
        target = draw(arrays(np.int64, rows, elements=st.integers(0, classes - 1)))
    weights = draw(arrays(np.int64, (4, rows), elements=st.integers(0, 3)))
    weights[0] += weights[0].sum() == 0  # at least one resample with rows
    return prediction, target, weights.astype(np.float64)


def expanded_scores(metric, prediction, target, weights):
    """The obvious twin of `weighted`: repeat the rows, score each resample alone."""
    rows = [np.repeat(np.arange(len(target)), row.astype(int)) for row in weights]
    return np.array(
        [metric.score(prediction[r], target[r]) if len(r) else np.nan for r in rows]
    )  # [resample]


@pytest.mark.parametrize(("name", "kind"), KINDS)
def test_weighted_scores_equal_the_scores_of_the_repeated_rows(name: str, kind: str):
    metric = metric_for(kind, name)

    @SETTINGS
    @given(cases(kind))
    def check(case):
        prediction, target, weights = case
        fast = metric.weighted(prediction, target, weights)
        assert fast.dtype == np.float64
        np.testing.assert_allclose(fast, expanded_scores(metric, *case), rtol=1e-9, atol=1e-12)

    check()


@pytest.mark.parametrize(("name", "kind"), KINDS)
def test_single_precision_predictions_give_the_same_scores(name: str, kind: str):
    generator = np.random.default_rng(0)
    prediction, target = answers(generator, kind, rows=200, noise=1.0)
    metric, prediction = metric_for(kind, name), prediction.astype(np.float32)
    weights = generator.integers(0, 3, (5, 200)).astype(np.float64)
    twin = expanded_scores(metric, prediction, target, weights)
    np.testing.assert_allclose(metric.weighted(prediction, target, weights), twin, rtol=1e-6)


@pytest.mark.parametrize(("name", "kind"), KINDS)
def test_better_answers_score_better_and_within_the_range(name: str, kind: str):
    metric = metric_for(kind, name)
    good, target = answers(np.random.default_rng(0), kind, rows=200, noise=0.3)
    poor, _ = answers(np.random.default_rng(0), kind, rows=200, noise=3.0)
    scores = metric.score(good, target), metric.score(poor, target)
    assert (scores[0] > scores[1]) == metric.higher_is_better
    assert all(metric.range[0] <= score <= metric.range[1] for score in scores)


def answers(generator, kind: str, rows: int, noise: float):
    """A noisy answer and the target it answers; the target is the same for each noise."""
    if kind == "number":
        target = generator.normal(size=rows)
        return target + noise * generator.normal(size=rows), target
    logits = generator.normal(size=(rows, 4))
    target = logits.argmax(1) if kind == "classes" else (logits > 0.5).astype(np.int64)
    logits = 3 * (logits - (0 if kind == "classes" else 0.5))
    logits = logits + 3 * noise * generator.normal(size=logits.shape)
    if kind == "labels":
        return 1 / (1 + np.exp(-logits)), target
    return np.exp(logits) / np.exp(logits).sum(1, keepdims=True), target


def test_ties_and_undefined_values():
    half = np.full((4, 2), 0.5)
    ap, spearman = METRICS["average_precision"], METRICS["spearman"]
    assert ap.score(half, np.array([0, 0, 0, 1])) == 0.25  # all tied: the share of class 1
    assert ap.score(half[:, ::-1], np.array([1, 1, 1, 0])) == 0.75
    assert np.isnan(ap.score(half, np.array([1, 1, 1, 1])))
    ramp, flat = np.arange(4.0), np.ones(4)
    assert np.isnan(spearman.score(ramp, flat))
    assert spearman.score(flat, ramp) == 0.0
    assert np.isnan(R2.score(ramp, 0.1 * flat))
    # 0.1 * 3 / 3 is not 0.1: a constant must be seen as one in spite of rounding
    assert np.isnan(R2.weighted(ramp, 0.1 * flat, np.array([[1.0, 1, 1, 0]]))).all()


def test_the_table_holds_every_metric_file_and_every_kind_has_a_default():
    folder = Path(__file__).parents[1] / "src" / "taskgrove" / "measuring" / "metrics"
    files = {path.stem for path in folder.glob("*.py")} - {"__init__", "metric", "resampling"}
    homes = {metric.score.__module__.rsplit(".", 1)[1] for metric in METRICS.values()}
    assert homes == files
    assert all(name == metric.name for name, metric in METRICS.items())
    assert {kind: metric_for(kind).name for kind in DEFAULT_METRIC} == DEFAULT_METRIC


@pytest.mark.parametrize(
    ("kind", "name", "words"),
    [
        ("classes", "acuracy", '"acuracy" is not a metric .* Did you mean "accuracy"?'),
        ("number", "accuracy", '"accuracy" is not made for number .*"r2"'),
        ("numbers", None, 'is not a kind of target .* Did you mean "number"?'),
    ],
)
def test_a_wrong_metric_is_told(kind: str, name: str | None, words: str):
    with pytest.raises(TaskgroveError, match=words):
        metric_for(kind, name)


def test_delta_m_worked_by_hand():
    # accuracy 0.80 -> 0.84: +5 %; rmse 2.0 -> 2.2: -10 %; AP 0.50 -> 0.53: +6 %; mean 1/3 %
    scores = {"topic": 0.84, "hours": 2.2, "tags": 0.53}
    single = {"topic": 0.80, "hours": 2.0, "tags": 0.50}
    higher = {"topic": True, "hours": False, "tags": True}
    gain, left_out = delta_m(scores, single, higher)
    assert gain == pytest.approx(1 / 3)
    assert left_out == []
    gain, left_out = delta_m(scores, single | {"tags": -0.1}, higher)
    assert gain == pytest.approx(-2.5)
    assert left_out == ["tags"]
    with pytest.raises(TaskgroveError, match=r'no separate model.*"tags"'):
        delta_m(scores, {"topic": 0.8, "hours": 2.0}, higher)


@SETTINGS
@given(
    arrays(np.float64, (3, 2, 4), elements=st.floats(0.1, 10)),
    arrays(np.float64, 4, elements=st.floats(0.1, 10)),
    arrays(np.bool_, 4),
    st.permutations(range(4)),
)
def test_delta_m_is_vectorised_permutes_and_has_no_unit(M, S, higher, order):
    gain = relative_gain(M, S, higher)
    assert gain.shape == (3, 2)
    order = list(order)
    np.testing.assert_allclose(
        relative_gain(M[..., order], S[order], higher[order]), gain, rtol=1e-9, atol=1e-9
    )
    np.testing.assert_allclose(relative_gain(M * 7, S * 7, higher), gain, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(relative_gain(M, S, ~higher), -gain, rtol=1e-9, atol=1e-9)
    np.testing.assert_array_equal(relative_gain(S, S, higher), 0.0)
    assert np.isnan(relative_gain(M, 0 * S, higher)).all()


def a_comparison(seeds: int = 2, rows: int = 120, spread: float = 0.0):
    """Two tasks; `joint` is better than `single` on both; `spread` sets seeds apart."""
    generator = np.random.default_rng(1)
    target, number = generator.integers(0, 3, rows), generator.normal(size=rows)
    exams = {"topic": Exam(ACCURACY, target), "hours": Exam(RMSE, number)}
    predictions = {}
    for method, skill in {"single": 0.6, "joint": 0.8}.items():
        predictions[method] = []
        for seed in range(seeds):
            right = generator.random(rows) < skill + spread * (seed - (seeds - 1) / 2)
            chosen = np.where(right, target, (target + 1) % 3)
            noise = (1.2 - skill - spread * (seed - (seeds - 1) / 2)) * generator.normal(size=rows)
            predictions[method].append({"topic": np.eye(3)[chosen], "hours": number + noise})
    return exams, predictions


def width(interval: tuple[float, float]) -> float:
    return interval[1] - interval[0]


def test_identical_predictions_have_an_interval_of_exactly_zero():
    exams, predictions = a_comparison(seeds=3, spread=0.2)
    predictions["twin"] = predictions["single"]
    standings = bootstrap(exams, predictions, resamples=200)
    for method in ("single", "twin"):
        assert standings[method].delta_m == [0.0, 0.0, 0.0]
        assert standings[method].delta_m_interval == (0.0, 0.0)


def test_points_are_the_scores_and_their_delta_m():
    exams, predictions = a_comparison()
    standings = bootstrap(exams, predictions, resamples=50)
    for seed in range(2):
        per_seed = {
            method: {
                task: exam.metric.score(predictions[method][seed][task], exam.target)
                for task, exam in exams.items()
            }
            for method in predictions
        }
        higher = {task: exam.metric.higher_is_better for task, exam in exams.items()}
        gain, _ = delta_m(per_seed["joint"], per_seed["single"], higher)
        assert standings["joint"].delta_m[seed] == pytest.approx(gain)
        assert standings["joint"].scores["topic"][seed] == per_seed["joint"]["topic"]
    assert standings["joint"].delta_m_mean == pytest.approx(np.mean(standings["joint"].delta_m))


def test_a_method_better_on_every_row_is_above_zero_for_either_direction():
    exams, predictions = a_comparison()
    number = exams["hours"].target
    exams = {"hours": exams["hours"]}
    predictions = {
        "single": [{"hours": number + 0.5}, {"hours": number - 0.5}],
        "joint": [{"hours": number + 0.4}, {"hours": number - 0.4}],
    }
    standings = bootstrap(exams, predictions, resamples=100)
    assert standings["joint"].delta_m == pytest.approx([20, 20])
    assert standings["joint"].delta_m_interval == pytest.approx((20, 20))
    swapped = bootstrap(exams, predictions, baseline="joint", resamples=100)
    assert swapped["single"].delta_m_interval == pytest.approx((-25, -25))


def test_pairing_cancels_what_methods_share():
    """A fixed gain on each row: an unpaired interval would be as wide as that of the scores."""
    generator = np.random.default_rng(2)
    number, noise = generator.normal(size=200), generator.standard_t(3, size=200)
    exams = {"hours": Exam(METRICS["mae"], number)}
    predictions = {
        "single": [{"hours": number + noise}],
        "joint": [{"hours": number + 0.9 * noise}],
    }
    joint = bootstrap(exams, predictions, resamples=200)["joint"]
    assert joint.delta_m_interval == pytest.approx((10, 10))
    assert width(joint.intervals["hours"]) > 0.1


def test_seeds_that_differ_widen_the_interval():
    exams, predictions = a_comparison(seeds=3, spread=0.15)
    both = bootstrap(exams, predictions)["joint"]
    rows_only = [
        bootstrap(exams, {method: [of[seed]] for method, of in predictions.items()})["joint"]
        for seed in range(3)
    ]
    for task in exams:
        assert width(both.intervals[task]) > max(width(one.intervals[task]) for one in rows_only)


def test_the_shares_of_seeds_have_the_mean_and_variance_of_a_mean():
    scores = np.array([0.5, 0.7, 0.9])
    share = draw_seeds(3, 20_000, seed=0)
    assert share.shape == (3, 20_001)
    np.testing.assert_allclose(share.sum(0), 1)
    np.testing.assert_allclose(share[:, 0], 1 / 3)
    means = scores @ share[:, 1:]
    assert means.mean() == pytest.approx(0.7, abs=0.005)
    assert means.var() == pytest.approx(scores.var(ddof=1) / 3, rel=0.05)
    np.testing.assert_array_equal(draw_seeds(1, 5, seed=0), 1)


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    """60 test sets of 80 rows: accuracy 0.7; of 95 % intervals, 51 or fewer would be a fault."""
    generator = np.random.default_rng(3)
    covered, widths = 0, []
    for _ in range(60):
        hit = generator.random((4, 80)) < 0.7  # [seed row]
        target = np.zeros(80, dtype=np.int64)
        of_seed = [{"t": np.stack([row, ~row], axis=1).astype(np.float64)} for row in hit]
        single = bootstrap({"t": Exam(ACCURACY, target)}, {"single": of_seed}, resamples=300)
        low, high = single["single"].intervals["t"]
        covered, widths = covered + (low <= 0.7 <= high), [*widths, high - low]
    assert covered >= 52
    assert max(widths) < 0.3


def test_order_and_company_of_methods_and_tasks_do_not_matter():
    exams, predictions = a_comparison(seeds=2, spread=0.1)
    one = bootstrap(exams, predictions, resamples=100)
    other = bootstrap(
        dict(reversed(exams.items())), dict(reversed(predictions.items())), resamples=100
    )
    alone = bootstrap({"topic": exams["topic"]}, predictions, resamples=100)
    assert one["joint"].intervals == other["joint"].intervals
    assert one["joint"].delta_m_interval == pytest.approx(other["joint"].delta_m_interval)
    assert alone["joint"].intervals["topic"] == one["joint"].intervals["topic"]


def test_the_same_seed_gives_the_same_intervals_whatever_the_chunk():
    exams, predictions = a_comparison()
    one = bootstrap(exams, predictions, resamples=100)
    assert bootstrap(exams, predictions, resamples=100) == one
    chunked = bootstrap(exams, predictions, resamples=100, chunk_bytes=7 * 8 * 120)
    assert chunked["joint"].delta_m_interval == pytest.approx(one["joint"].delta_m_interval)
    assert bootstrap(exams, predictions, resamples=100, seed=1) != one


def test_rows_of_one_key_go_together_and_widen_the_interval():
    exams, predictions = a_comparison(seeds=1, rows=60)
    copies = 9
    many = {
        method: [{task: np.repeat(p, copies, axis=0) for task, p in of_seed.items()}]
        for method, (of_seed,) in predictions.items()
    }
    rows = {t: replace(e, target=np.repeat(e.target, copies)) for t, e in exams.items()}
    keyed = {t: replace(e, keys=np.repeat(np.arange(60), copies)) for t, e in rows.items()}
    once, naive, honest = (
        bootstrap(e, p)["joint"] for e, p in [(exams, predictions), (rows, many), (keyed, many)]
    )
    assert width(naive.intervals["topic"]) < 0.5 * width(once.intervals["topic"])
    assert honest.intervals["topic"] == pytest.approx(once.intervals["topic"])  # copies add nothing


def test_tasks_of_one_table_share_the_draw_of_its_keys():
    keys = np.array(["ann", "bob", "cyd", "dan", "eve"])
    exams = {
        "a": Exam(R2, np.arange(5.0), keys, "tickets"),
        "b": Exam(R2, np.arange(3.0), keys[[4, 0, 2]], "tickets"),  # two rows lack this label
        "c": Exam(R2, np.arange(5.0), keys, "other"),
    }
    a, b, c = (
        next(draw_rows(t, e, pools(exams)[e.table], resamples=20, seed=0, chunk_bytes=2**20))
        for t, e in exams.items()
    )
    np.testing.assert_array_equal(a[:, [4, 0, 2]], b)
    np.testing.assert_array_equal(a.sum(1), 5)
    assert (a != c).any()


def test_tasks_without_a_relative_gain_are_left_out_and_named():
    exams, predictions = a_comparison()
    generator, rows = np.random.default_rng(4), 120
    exams |= {"noise": Exam(R2, generator.normal(size=rows)), "flat": Exam(R2, np.ones(rows))}
    for of_method in predictions.values():
        for of_seed in of_method:
            of_seed |= {"noise": generator.normal(size=rows), "flat": np.zeros(rows)}
    standing = bootstrap(exams, predictions, resamples=100)["joint"]
    assert standing.left_out == ["noise", "flat"]
    assert np.isnan(standing.intervals["flat"]).all()
    assert np.isfinite(standing.delta_m_interval).all()
    nothing = bootstrap({"flat": exams["flat"]}, predictions, resamples=10)["joint"]
    assert np.isnan([nothing.delta_m_mean, *nothing.delta_m_interval]).all()


def test_resamples_without_a_positive_row_are_skipped():
    """One positive among 12 rows: a third of the resamples has none."""
    target = np.eye(12, dtype=np.int64)[0]
    scores = np.linspace(0.9, 0.1, 12)
    prediction = {"rare": np.stack([1 - scores, scores], axis=1)}
    exams = {"rare": Exam(METRICS["average_precision"], target)}
    standing = bootstrap(exams, {"single": [prediction], "joint": [prediction]})["joint"]
    assert standing.intervals["rare"] == (1.0, 1.0)
    assert standing.delta_m_interval == (0.0, 0.0)


def test_mistakes_are_told():
    exams, predictions = a_comparison()
    topic = exams["topic"]

    def told(words: str, exams=exams, predictions=predictions):
        with pytest.raises(TaskgroveError, match=words):
            bootstrap(exams, predictions, resamples=2)

    told('"single", which is not among .*"joint"', predictions={"joint": predictions["joint"]})
    told('"joint" has 1 seeds', predictions=predictions | {"joint": predictions["joint"][:1]})
    told('seed 0, task "topic": no predictions', predictions=predictions | {"joint": [{}, {}]})
    short = [{task: p[:7] for task, p in of.items()} for of in predictions["joint"]]
    told("7 predictions for 120 test rows", predictions=predictions | {"joint": short})
    broken = [{task: p * np.nan for task, p in of.items()} for of in predictions["joint"]]
    told("120 of 120 predictions are not finite", predictions=predictions | {"joint": broken})
    told("a table but no keys", exams={"topic": replace(topic, table="t")})
    told("7 keys for 120", exams={"topic": replace(topic, keys=np.arange(7))})


def test_verdicts_say_it_plainly():
    label, sentence = verdict("joint", 1.94, (0.41, 3.3), tasks=6, seeds=2)
    assert label == "better than separate models"
    assert sentence == (
        "joint: better than separate models by 1.9 % on average over 6 tasks "
        "(95 % interval 0.4 to 3.3, 2 seeds)"
    )
    label, sentence = verdict("ties", -1.2, (-2.0, -0.04), tasks=1, seeds=1, left_out=["price"])
    assert label == "worse than separate models"
    assert sentence == (
        "ties: worse than separate models by 1.2 % on average over 1 task (95 % interval 0.04 to "
        "2.0, 1 seed: the interval covers test rows only); left out, separate models not shown to "
        'score above 0: "price"'
    )
    label, sentence = verdict("dare", -0.3, (-2.0, 0.0), tasks=2, seeds=3)
    assert label == "no difference shown"
    assert sentence.startswith("dare: no difference shown, -0.3 % on average over 2 tasks (95 %")
    label, sentence = verdict("x", np.nan, (np.nan, np.nan), tasks=0, seeds=3, left_out=["a"])
    assert label == "no difference shown"
    assert "no task has a relative gain" in sentence


def test_the_weights_held_at_a_time_obey_the_bound():
    exam = Exam(ACCURACY, np.zeros(1000, dtype=np.int64))
    rows = draw_rows("t", exam, None, resamples=50, seed=0, chunk_bytes=8 * 1000 * 20)
    assert [len(weights) for weights in rows] == [20, 20, 10]
