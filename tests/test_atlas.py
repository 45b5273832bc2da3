"""aTLAS: its four uses on real digits, partitions, the choice of vectors, pseudo-labels."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

from reference import scaled_copies as twin
from taskgrove.errors import TaskgroveError
from taskgrove.merging.learned.adapt import adapt
from taskgrove.merging.learned.atlas import ADDITION, FEW_SHOT, TEST_TIME, addition, negation
from taskgrove.merging.learned.few_shot import HELD_OUT, Shots, few_shot
from taskgrove.merging.learned.linearised import linearised
from taskgrove.merging.learned.rounds import drawn
from taskgrove.merging.learned.vector_selection import best_models, others, rank_blocks
from taskgrove.merging.learned.vectors import MemoryVectors
from taskgrove.objectives.pseudo_label import fixmatch_loss, trusted_topk
from two_digit_tasks import digits

KINDS = {"low": "classes", "high": "classes"}
SHORT = replace(ADDITION, steps=6, every=2)


def labelled(x, y, rows=48):
    def draw(step):
        some = drawn(torch.arange(len(x)), step, rows)
        return x[some], y[some]

    return draw


def setting():
    """The model, its vectors, and (fit, test) halves of each task's held-out rows."""
    model, vectors, pool, answers = digits()
    fit = {t: labelled(pool[t][:100], answers[t][:100]) for t in pool}
    return model, vectors, fit, {t: (pool[t][100:], answers[t][100:]) for t in pool}


def accuracy(model, weights, test, task):
    x, y = test[task]
    return (model(weights, task, x).argmax(1) == y).double().mean().item()


def base_of(vectors):
    return {n: vectors.base(n) for n in vectors.names}


def state_of(model, steps):
    return {n: w for n, w in model.items() if n != "curve"} | {"curve": model["curve"][:steps]}


# --- addition ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("granularity", "partitions", "shape"),
    [("task", 1, (2,)), ("tensor", 1, (2, 4)), ("partition", 5, (2, 4, 5))],
)
def test_addition_starts_at_the_base_and_helps_both_tasks(granularity, partitions, shape):
    model, vectors, fit, test = setting()
    scaling = replace(ADDITION, granularity=granularity, partitions=partitions)
    found = addition(model, vectors, fit, KINDS, scaling)
    assert found.coefficients.shape == shape
    assert found.trained == math.prod(shape)
    for i, task in enumerate(fit):
        x, y = fit[task](0)
        start = cross_entropy(model(base_of(vectors), task, x), y)
        torch.testing.assert_close(found.losses[0, i], start)  # all coefficients are 0
        better = accuracy(model, found.weights, test, task)
        if granularity != "task":  # one number a model is too few for both tasks here
            assert better > accuracy(model, base_of(vectors), test, task) + 0.02
    assert found.losses[-1].sum() < 0.9 * found.losses[0].sum()


def test_the_first_step_is_autograds_clipped_and_decayed():
    model, vectors, fit, _ = setting()
    found = addition(model, vectors, fit, KINDS, replace(ADDITION, steps=1, clip=0.25, gamma=0.5))

    def loss(lam):
        weights = twin.scaled(vectors._base, vectors._deltas, lam)
        return sum(cross_entropy(model(weights, t, x), y) for t in fit for x, y in [fit[t](0)])

    lam = torch.zeros(2, 4, requires_grad=True)
    loss(lam).backward()
    assert lam.grad.norm() > 0.25
    clipped = lam.grad * 0.25 / lam.grad.norm()
    moment = found.state["coefficients.exp_avg"]
    torch.testing.assert_close(moment, 0.1 * clipped, rtol=1e-4, atol=1e-6)
    large = clipped.abs() > 1e-4  # where Adam's epsilon does not matter
    torch.testing.assert_close(
        found.coefficients[large], -0.03 * clipped.sign()[large], rtol=1e-3, atol=1e-5
    )


def test_weight_decay_and_the_norm_pull_towards_the_base():
    model, vectors, fit, _ = setting()
    sizes = {
        what: addition(model, vectors, fit, KINDS, replace(ADDITION, **what_)).coefficients.norm()
        for what, what_ in {
            "free": {"weight_decay": 0.0},
            "decayed": {"weight_decay": 10.0},
            "1": {"gamma": 3.0, "p": 1, "weight_decay": 0.0},
            "2": {"gamma": 3.0, "p": 2, "weight_decay": 0.0},
        }.items()
    }
    assert all(sizes["free"] > 1.2 * size for what, size in sizes.items() if what != "free")


def test_validation_keeps_the_best_look_and_the_base_is_one():
    model, vectors, fit, _ = setting()
    scores = iter([3.0, 1.0, 7.0, 2.0])
    found = addition(model, vectors, fit, KINDS, SHORT, validate=lambda _: next(scores))
    assert found.scores.tolist() == [3.0, 1.0, 7.0, 2.0]  # before steps 0, 2, 4 and at the end
    best = addition(model, vectors, fit, KINDS, replace(SHORT, steps=4))
    assert torch.equal(found.coefficients, best.coefficients)
    found = addition(model, vectors, fit, KINDS, SHORT, validate=lambda w: -w["2.bias"].norm())
    assert len(found.scores) == 4
    worse = iter([0.0, -1.0, -1.0, -1.0])
    found = addition(model, vectors, fit, KINDS, SHORT, validate=lambda _: next(worse))
    assert all(torch.equal(w, vectors.base(n)) for n, w in found.weights.items())


def test_resumed_is_uninterrupted_with_validation_and_a_cosine():
    model, vectors, fit, test = setting()
    saved = []
    scaling = replace(SHORT, cosine=True)

    def run(**more):
        return addition(
            model, vectors, fit, KINDS, scaling,
            validate=lambda w: accuracy(model, w, test, "low"), **more,
        )  # fmt: skip

    whole = run(progress=saved.append)
    for state in (saved[0], saved[3]):
        again = run(resume=state)
        assert whole.state.keys() == again.state.keys()
        assert all(torch.equal(whole.state[name], t) for name, t in again.state.items())
        assert all(torch.equal(whole.weights[n], w) for n, w in again.weights.items())


# --- negation ----------------------------------------------------------------------------------


def test_negation_forgets_one_task_and_keeps_the_other():
    model, vectors, fit, test = setting()
    own = vectors.only([0])  # the vector of "low"

    def forward(weights, task, x):
        return model(weights, {"target": "low", "control": "high"}[task], x)

    def measure(weights):
        return accuracy(model, weights, test, "low"), accuracy(model, weights, test, "high")

    found = negation(forward, own, fit["low"], fit["high"], measure)
    before, after = measure(base_of(vectors)), measure(found.weights)
    assert after[0] < before[0] - 0.1
    assert after[1] >= 0.95 * before[1]
    hopeless = iter([(0.5, 0.9), *[(0.5, 0.9)], *[(0.1, 0.2)] * 9])
    kept = negation(forward, own, fit["low"], fit["high"], lambda _: next(hopeless), SHORT)
    assert not kept.coefficients.any()  # no look kept the control, so the base stays


# --- few shots ---------------------------------------------------------------------------------


def shots_of(task, per_class):
    _, _, pool, answers = digits()
    x, y = pool[task][:100], answers[task][:100]
    rows = torch.cat([(y == c).nonzero()[:per_class, 0] for c in range(5)])
    return Shots(lambda some, _: x[rows][some], y[rows])


def test_few_shots_compose_where_the_pool_helps_and_fall_back_where_it_does_not():
    model, vectors, _, test = setting()
    shots = shots_of("high", 4)

    def forward(weights, _, x):
        return model(weights, "high", x)

    found = few_shot(forward, vectors, shots, scaling=replace(FEW_SHOT, steps=12))
    assert accuracy(model, found.weights, test, "high") > accuracy(
        model, base_of(vectors), test, "high"
    )
    assert "cross-validation on the shots: composed" in found.notes[0]
    g = torch.Generator().manual_seed(0)
    noise = {n: torch.randn(3, *vectors.shape(n), generator=g) for n in vectors.names}
    useless = MemoryVectors(base_of(vectors), noise)
    found = few_shot(forward, useless, shots, scaling=replace(FEW_SHOT, steps=4))
    assert not found.coefficients.any()
    assert "the base is handed out" in found.notes[0]
    assert all(torch.equal(w, vectors.base(n)) for n, w in found.weights.items())
    composed, base = found.state[HELD_OUT][:, 0]
    assert composed <= base


def test_cross_validation_never_scores_a_shot_that_it_learned_from():
    model, vectors, _, _ = setting()
    shots = shots_of("high", 2)
    learned, held, folds = set(), set(), []

    def inputs(rows, step):
        if torch.is_grad_enabled():
            if held:  # a new fold begins
                folds.append((set(learned), set(held)))
                learned.clear(), held.clear()
            learned.update(rows.tolist())
        else:
            held.update(rows.tolist())
        return shots.inputs(rows, step)

    few_shot(
        lambda weights, _, x: model(weights, "high", x), vectors, Shots(inputs, shots.targets),
        scaling=replace(FEW_SHOT, steps=3),
    )  # fmt: skip
    assert len(folds) >= 3
    assert all(not mine & out and mine | out == set(range(10)) for mine, out in folds)
    assert len(set.union(*(out for _, out in folds))) == sum(len(out) for _, out in folds)


def test_few_shots_resume_without_cross_validating_again():
    model, vectors, _, _ = setting()
    calls, saved = [], []

    def forward(weights, _, x):
        calls.append(len(x))
        return model(weights, "high", x)

    scaling = replace(FEW_SHOT, steps=6)
    whole = few_shot(forward, vectors, shots_of("high", 2), scaling=scaling, progress=saved.append)
    all_calls = len(calls)
    calls.clear()
    again = few_shot(forward, vectors, shots_of("high", 2), scaling=scaling, resume=saved[1])
    assert len(calls) == 4 < all_calls
    assert torch.equal(whole.coefficients, again.coefficients)
    assert whole.notes == again.notes
    with pytest.raises(TaskgroveError, match="folds=4 with 3 shots"):
        few_shot(forward, vectors, Shots(lambda r, _: r, torch.zeros(3)))


# --- without labels ----------------------------------------------------------------------------


def test_adaptation_learns_from_inputs_alone():
    model, vectors, _, test = setting()
    x, _ = test["high"]
    g = torch.Generator().manual_seed(1)
    noise = 0.05 * torch.randn(x.shape, generator=g)

    def forward(weights, _, inputs):
        return model(weights, "high", inputs)

    found = adapt(
        forward, vectors, lambda rows, _: x[rows], lambda rows, _: x[rows] + noise[rows], len(x),
        scaling=replace(TEST_TIME, steps=30),
    )  # fmt: skip
    gain = accuracy(model, found.weights, test, "high") - accuracy(
        model, base_of(vectors), test, "high"
    )
    assert gain > 0.01
    assert found.losses[-5:].mean() < found.losses[:5].mean()


def test_pseudo_labels_by_hand():
    p = torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.3, 0.7], [0.8, 0.2], [0.2, 0.8]])
    assert trusted_topk(p, 2).tolist() == [0, -1, 1, 0, 1]
    assert trusted_topk(p, 1).tolist() == [0, -1, -1, -1, 1]
    with pytest.raises(TaskgroveError, match="k is 0"):
        trusted_topk(p, 0)
    z = torch.tensor([[0.0, 1.0], [2.0, 0.0], [0.5, 0.0]], requires_grad=True)
    weak = torch.tensor([[0.0, 0.0], [9.0, 0.0], [1.0, 0.0]], requires_grad=True)
    # trusted as 1; not trusted but certain; neither: the third has no say
    loss = fixmatch_loss(weak, z, torch.tensor([1, -1, -1]))
    q = torch.sigmoid(torch.tensor(9.0))
    first = math.log(1 + math.exp(-1))
    second = math.log(1 + math.exp(-2)) + 2 * (1 - q)
    torch.testing.assert_close(loss, (first + second) / 2)
    loss.backward()
    assert weak.grad is None
    assert not z.grad[2].any()
    none = fixmatch_loss(
        torch.zeros(2, 2), torch.zeros(2, 2, requires_grad=True), torch.tensor([-1, -1])
    )
    assert none == 0
    assert none.requires_grad


# --- which vectors, which rows, the tangent ------------------------------------------------------


def test_blocks_are_ranked_by_the_gradient_at_the_base():
    model, vectors, fit, _ = setting()
    x, y = fit["high"](0)

    def loss(weights):
        return cross_entropy(model(weights, "high", x), y)

    scores = rank_blocks(loss, vectors)
    lam = torch.zeros(2, 4, requires_grad=True)
    loss(twin.scaled(vectors._base, vectors._deltas, lam)).backward()
    torch.testing.assert_close(scores, lam.grad, rtol=1e-5, atol=1e-5)
    assert best_models(scores, 1) == [1]  # the model that was tuned on "high"
    assert best_models(scores, 2) == [0, 1]


def test_the_targets_own_vector_and_its_copies_are_left_out():
    g = torch.Generator().manual_seed(0)
    base = {"w": torch.randn(30, 20, generator=g)}
    tau = torch.randn(3, 30, 20, generator=g)
    near = tau[0] + 0.2 * tau[2]  # cosine about 0.98
    vectors = MemoryVectors(base, {"w": torch.cat([tau[:2], 3 * near[None], -tau[:1]])})
    names = ["mine", "b", "copy", "opposite"]
    kept, notes = others(vectors, names, "mine")
    assert kept == [1, 3]
    assert notes[0] == '"mine" is the target\'s own vector: left out'
    assert '"copy" has cosine 0.979 with' in notes[1]
    assert others(vectors, names, "elsewhere") == ([0, 1, 2, 3], ())
    with pytest.raises(TaskgroveError, match="every vector of"):
        others(vectors.only([0, 2]), ["mine", "copy"], "mine")
    with pytest.raises(TaskgroveError, match="2 names for 4 models"):
        others(vectors, ["a", "b"], "a")


@settings(max_examples=30, deadline=None)
@given(rows=st.integers(1, 12), batch=st.integers(1, 15), rounds=st.integers(1, 4))
def test_every_row_is_drawn_equally_often(rows, batch, rounds):
    size = min(rows, batch)
    steps = rounds * rows  # size * steps is a whole number of rounds
    drawn_ = [drawn(torch.arange(rows), step, batch) for step in range(steps)]
    assert all(len(some) == size for some in drawn_)
    assert (torch.cat(drawn_).bincount(minlength=rows) == rounds * size).all()


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # torch's own jvp
def test_a_linearised_model_is_the_base_at_the_base_and_its_tangent_beside():
    model, vectors, fit, _ = setting()
    x, _ = fit["high"](0)
    flat = linearised(model, vectors)
    theta_0 = base_of(vectors)
    torch.testing.assert_close(flat(theta_0, "high", x), model(theta_0, "high", x))
    tau = {n: 1e-3 * vectors._deltas[n][1] for n in vectors.names}
    moved = {n: w + tau[n] for n, w in theta_0.items()}
    change = model(moved, "high", x) - model(theta_0, "high", x)
    linear = flat(moved, "high", x) - model(theta_0, "high", x)
    assert (linear - change).norm() < 0.05 * change.norm()
    twice = {n: w + 2000 * tau[n] for n, w in theta_0.items()}
    torch.testing.assert_close(  # linear: far away too
        flat(twice, "high", x) - model(theta_0, "high", x),
        2000 * (flat(moved, "high", x) - model(theta_0, "high", x)), rtol=2e-2, atol=5e-2,
    )  # fmt: skip
    found = addition(flat, vectors, {"high": fit["high"]}, KINDS, replace(ADDITION, steps=10))
    assert found.losses[-1] < 0.8 * found.losses[0]


def test_unknown_kinds_are_refused():
    model, vectors, fit, _ = setting()
    with pytest.raises(TaskgroveError, match='task "low" is of kind clases'):
        addition(model, vectors, fit, {"low": "clases", "high": "classes"})
