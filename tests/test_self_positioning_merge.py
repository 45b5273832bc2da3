"""Self Positioning: gradients, the norm term, equal tasks, the position on real digits."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from reference import scaled_copies as twin
from taskgrove.errors import TaskgroveError
from taskgrove.merging.learned.rounds import drawn
from taskgrove.merging.learned.scaled_merge import ScaledMerge
from taskgrove.merging.learned.self_positioning import self_positioning
from taskgrove.merging.learned.vectors import MemoryVectors
from two_digit_tasks import digits


def setting():
    model, vectors, pool, answers = digits()

    def loss(weights, task, rows):
        return cross_entropy(model(weights, task, pool[task][rows]), answers[task][rows])

    probe = {t: lambda step: drawn(torch.arange(100), step, 32) for t in pool}
    return loss, vectors, probe, {t: torch.arange(100, len(pool[t])) for t in pool}


def test_the_first_gradient_is_autograds_with_the_norm():
    loss, vectors, probe, _ = setting()
    found = self_positioning(loss, vectors, probe, steps=1, beta=0.2)
    a, m = torch.zeros(2, requires_grad=True), torch.tensor(1.0, requires_grad=True)
    c = (m * a.softmax(0))[:, None].expand(-1, 4)
    theta = twin.scaled(vectors._base, vectors._deltas, c)
    losses = [loss(theta, task, probe[task](0)) for task in probe]
    change = torch.cat([(theta[n] - vectors.base(n)).flatten() for n in theta])
    (sum(losses) / 2 + 0.2 * change.norm()).backward()
    close = {"rtol": 1e-4, "atol": 1e-6}
    torch.testing.assert_close(found.state["coefficients.exp_avg"], 0.1 * a.grad, **close)
    torch.testing.assert_close(found.state["scale.exp_avg"], 0.1 * m.grad, **close)
    torch.testing.assert_close(found.losses[0], torch.stack(losses).detach())


def test_it_lowers_the_loss_of_rows_it_never_saw():
    loss, vectors, probe, rest = setting()
    found = self_positioning(loss, vectors, probe, steps=40, learning_rate=0.05)

    def total(weights):
        return sum(loss(weights, task, rows).item() for task, rows in rest.items())

    average = ScaledMerge(vectors, "task", 0.5, None).weights()
    assert total(found.weights) < total(average)
    assert found.w.sum().item() == pytest.approx(1)
    assert found.m > 0
    weights = ScaledMerge(vectors, "task", 0.0, None)
    weights.coefficients.data.copy_(found.m * found.w)
    for name, w in weights.weights().items():
        torch.testing.assert_close(w, found.weights[name])


def test_the_norm_keeps_the_model_near_the_base():
    loss, vectors, probe, _ = setting()
    free = self_positioning(loss, vectors, probe, steps=10)
    near = self_positioning(loss, vectors, probe, steps=10, beta=5.0)
    gone = self_positioning(loss, vectors, probe, steps=80, beta=50.0, learning_rate=0.05)
    assert near.m < free.m
    assert gone.m == 0
    assert "the base alone does best" in gone.notes[0]
    assert all(torch.equal(w, vectors.base(n)) for n, w in gone.weights.items())


def test_relative_losses_do_not_depend_on_a_tasks_units():
    loss, vectors, probe, _ = setting()

    def louder(weights, task, rows):
        return loss(weights, task, rows) * (1000 if task == "low" else 1)

    runs = [self_positioning(f, vectors, probe, steps=5, relative=True) for f in (loss, louder)]
    torch.testing.assert_close(runs[0].w, runs[1].w)
    assert runs[1].losses[0, 0] == pytest.approx(1000 * runs[0].losses[0, 0].item(), rel=1e-4)
    plain = [self_positioning(f, vectors, probe, steps=5) for f in (loss, louder)]
    assert (plain[0].w - plain[1].w).abs().max() > 1e-4
    with pytest.raises(TaskgroveError, match="losses at the base"):
        self_positioning(lambda w, t, r: -loss(w, t, r), vectors, probe, relative=True)


def test_a_model_that_hurts_is_told_and_validation_keeps_the_best():
    loss, vectors, probe, _ = setting()
    bad = {
        n: torch.stack([*vectors._deltas[n], -3 * vectors._deltas[n].sum(0)]) for n in vectors.names
    }
    three = MemoryVectors(vectors._base, bad)
    found = self_positioning(
        loss, three, probe, steps=40, learning_rate=0.3, models=["low", "high", "hurts"]
    )
    assert found.notes[0].startswith('"hurts" weighs 0.0')
    scores = iter([0.0, 2.0, 1.0])
    best = self_positioning(loss, vectors, probe, steps=4, every=2, validate=lambda _: next(scores))
    short = self_positioning(loss, vectors, probe, steps=2)
    assert torch.equal(best.w, short.w)
    assert best.m == short.m
    assert best.scores.tolist() == [0.0, 2.0, 1.0]


def test_resumed_is_uninterrupted():
    loss, vectors, probe, _ = setting()
    saved = []
    whole = self_positioning(loss, vectors, probe, steps=6, beta=0.1, progress=saved.append)
    again = self_positioning(loss, vectors, probe, steps=6, beta=0.1, resume=saved[2])
    assert all(torch.equal(whole.state[name], t) for name, t in again.state.items())
    assert all(torch.equal(whole.weights[n], w) for n, w in again.weights.items())
    with pytest.raises(TaskgroveError, match="beta is -1"):
        self_positioning(loss, vectors, probe, beta=-1.0)
