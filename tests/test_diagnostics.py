"""How gradients met and what weights they got: by hand, after kills, at no change to training."""

import copy
import json

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from taskgrove.balancing import Balanced, Balancer
from taskgrove.errors import TaskgroveError
from taskgrove.methods.start import new_model
from taskgrove.tasks.task_set import load_tasks
from taskgrove.training import diagnostics, fit
from taskgrove.training.budget import Budget
from taskgrove.training.diagnostics import Diagnostics
from taskgrove.training.options import Options
from taskgrove.training.run import Record
from taskgrove.training.scalars import balance_scalars, heat_map

TASKS = ["side", "rare", "tags", "number"]


@pytest.fixture(scope="module")
def task_set(small_tasks):
    return load_tasks(small_tasks)


def step(tasks, weights, gradients=None, share=None, fallback=False):
    """A step whose task gradients are the rows of `gradients`."""
    share = [1 / len(tasks)] * len(tasks) if share is None else share
    G = None if gradients is None else torch.tensor(gradients, dtype=torch.float64)
    share, weights = (torch.tensor(x, dtype=torch.float64) for x in (share, weights))
    M = None if G is None else G @ G.T
    return Balanced(list(tasks), share, weights, torch.ones_like(share), M, fallback)


def train(task_set, folder, balancer="mean", steps=12, names=None, progress=None, **options):
    model, _ = new_model(task_set, 0, names)
    record = fit.fit(
        model, task_set, budget=Budget(steps=steps),
        options=Options(**{"batch_size": 32, "evaluations": 3, **options}),
        seed=0, folder=folder, balancer=balancer, progress=progress,
    )  # fmt: skip
    return model, record


def lasting(record):
    """A history but for its seconds."""
    return [{k: v for k, v in look.items() if k != "seconds"} for look in record.history]


# --- values --------------------------------------------------------------------------------------


def test_the_values_are_those_of_a_hand_computation():
    found = Diagnostics()
    found.add(step([0, 1, 2], [0.5, 0.25, 0.25], [[1, 0], [1, 1], [-1, 0]]), ["a", "b", "c"])
    found.add(step([2, 0], [0.9, 0.1], [[3, 4], [2, 0]], share=[0.75, 0.25]), ["c", "a"])
    found.add(step([1], [1.0], fallback=True), ["b"])
    told = found.summary(["a", "b", "c"])
    half = 0.5**0.5
    assert told["cosines"]["tasks"] == ["a", "b", "c"]
    expected = [[1, half, (-1 + 0.6) / 2], [half, 1, -half], [(-1 + 0.6) / 2, -half, 1]]
    assert np.allclose(told["cosines"]["values"], expected)
    assert told["conflicts"] == 2 / 4  # a c and b c of the first step's three; none in the second
    weights = {"a": (1.5 + 0.4) / 2, "b": (0.75 + 1) / 2, "c": (0.75 + 1.2) / 2}
    assert told["weights"] == pytest.approx(weights)
    assert told["fallbacks"] == 1


def test_what_the_mean_does_is_nothing_to_tell_and_a_reset_begins_anew():
    found = Diagnostics()
    found.add(step([0, 1], [0.3, 0.7], share=[0.3, 0.7]), ["a", "b"])
    assert found.summary(["a", "b"]) == {}
    found.add(step([0, 1], [0.4, 0.6], [[1.0], [1.0]]), ["a", "b"])
    assert found.summary(["a", "b"])["conflicts"] == 0
    found.reset()
    assert found == Diagnostics()


def test_a_task_without_a_gradient_and_a_gramian_that_overflowed_meet_nobody():
    found = Diagnostics()
    found.add(step([0, 1, 2], [1, 1, 1], [[1, 0], [0, 0], [0, 2]]), ["a", "b", "c"])
    found.add(step([0, 2], [1, 1], [[1, 0], [torch.inf, 1]], fallback=True), ["a", "c"])
    told = found.summary(["a", "b", "c"])
    assert told["cosines"] == {"tasks": ["a", "c"], "values": [[1.0, 0.0], [0.0, 1.0]]}
    assert (told["conflicts"], found.pairs) == (0, 1)
    found.add(step([1], [1.0], [[2.0]]), ["b"])
    assert found.summary(["a", "b", "c"])["cosines"]["values"][0] == [1.0, None, 0.0]


def test_a_thousand_tasks_keep_the_first_cosines_and_all_conflicts():
    names = [f"t{n}" for n in range(1000)]
    rng = np.random.default_rng(0)
    G = rng.normal(size=(1000, 8))
    found = Diagnostics()
    order = rng.permutation(1000)
    found.add(step(order.tolist(), [0.002] * 1000, G[order]), [names[n] for n in order])
    told = found.summary(names)
    assert told["cosines"]["tasks"] == names[: diagnostics.MOST]
    unit = G / np.linalg.norm(G, axis=1, keepdims=True)
    assert np.allclose(told["cosines"]["values"], (unit @ unit.T)[:32, :32])
    above = (unit @ unit.T)[np.triu_indices(1000, 1)]
    assert told["conflicts"] == (above < 0).mean()
    assert len(json.dumps(vars(found))) < 2e5
    assert Diagnostics(**json.loads(json.dumps(vars(found)))) == found


# --- in training ---------------------------------------------------------------------------------


def test_a_method_that_needs_gradients_tells_at_each_look(task_set, tmp_path):
    _, record = train(task_set, tmp_path, "upgrad")
    for look in record.history:
        assert look["balance"]["cosines"]["tasks"] == TASKS
        assert 0 <= look["balance"]["conflicts"] <= 1
        assert set(look["balance"]["weights"]) == set(TASKS)
        assert min(look["balance"]["weights"].values()) > 0
        assert look["balance"]["fallbacks"] == 0


@pytest.mark.parametrize("balancer", ["mean", "uncertainty"])
def test_watching_changes_nothing_but_what_is_known(task_set, tmp_path, balancer):
    plain, blind = train(task_set, tmp_path / "a", balancer)
    watched, seen = train(task_set, tmp_path / "b", balancer, watch=2)
    for name, value in plain.state_dict().items():
        assert torch.allclose(value, watched.state_dict()[name], atol=1e-6), name
    assert all("cosines" not in look.get("balance", {}) for look in blind.history)
    assert all(("weights" in look["balance"]) == (balancer != "mean") for look in seen.history)
    values = np.array([look["balance"]["cosines"]["values"] for look in seen.history])
    assert np.array_equal(values, values.transpose(0, 2, 1))
    assert abs(values[:, 0, 1]).max() < 1
    assert seen.spent.passes == blind.spent.passes


def test_cosines_of_a_watched_step_are_those_of_the_gradients(task_set, tmp_path, monkeypatch):
    """One step's cosines against backward passes of the losses one by one."""
    found = {}

    def run(self, parts, present, share, **more):
        (trunk,) = self.groups
        rows = []
        for loss in parts[0]():
            row = torch.autograd.grad(loss, trunk, retain_graph=True, materialize_grads=True)
            rows.append(torch.cat([g.flatten() for g in row]))
        found["rows"], found["names"] = torch.stack(rows).double(), [TASKS[n] for n in present]
        return original(self, parts, present, share, **more)

    original = Balancer.run
    monkeypatch.setattr(Balancer, "run", run)
    _, record = train(task_set, tmp_path, steps=1, evaluations=1, watch=1)
    unit = torch.nn.functional.normalize(found["rows"])
    told = record.history[0]["balance"]["cosines"]
    assert told["tasks"] == [name for name in TASKS if name in found["names"]]
    order = [found["names"].index(name) for name in told["tasks"]]
    assert np.allclose(told["values"], (unit @ unit.T)[order][:, order], atol=1e-5)


class KilledError(Exception):
    """A kill between two steps."""


@pytest.mark.parametrize(("balancer", "watch"), [("upgrad", 0), ("uncertainty", 3)])
def test_a_run_killed_between_looks_has_the_same_history(
    task_set, tmp_path, monkeypatch, balancer, watch
):
    monkeypatch.setattr(fit, "SAVE_EVERY", -1.0)  # a checkpoint after each step
    whole, record = train(task_set, tmp_path / "whole", balancer, watch=watch)
    for kill in (3, 6):
        steps = []

        def progress(*_, kill=kill, steps=steps):
            steps.append(1)
            if len(steps) == kill:
                raise KilledError

        folder = tmp_path / str(kill)
        with pytest.raises(KilledError):
            train(task_set, folder, balancer, watch=watch, progress=progress)
        again, resumed = train(task_set, folder, balancer, watch=watch)
        assert lasting(resumed) == lasting(record)
        weights = again.state_dict()
        assert all(torch.equal(value, weights[name]) for name, value in whole.state_dict().items())


def test_a_record_comes_back_from_json_with_its_sums():
    record = Record()
    record.balance.add(step([0, 1], [0.1, 0.9], [[0.1, 0.7], [0.3, -0.2]]), ["a", "b"])
    before = copy.deepcopy(record)
    assert Record.of(json.loads(json.dumps(record.facts()))) == before


def test_watch_and_parts_do_not_go_together():
    with pytest.raises(TaskgroveError, match="watch needs whole batches"):
        Options(watch=5, accumulate=2)
    with pytest.raises(TaskgroveError, match="watch is -1"):
        Options(watch=-1)


# --- TensorBoard ---------------------------------------------------------------------------------


def test_tensorboard_shows_cosines_conflicts_and_weights(task_set, tmp_path):
    _, record = train(task_set, tmp_path, "upgrad")
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    tags = events.Tags()
    for tag in ("balance/conflicts", "balance/fallbacks", "cosine/side/rare", "weight/number"):
        assert len(events.Scalars(tag)) == len(record.history), tag
    last = record.history[-1]["balance"]
    assert events.Scalars("weight/side")[-1].value == pytest.approx(last["weights"]["side"])
    cosine = last["cosines"]["values"][1][3]
    assert events.Scalars("cosine/rare/number")[-1].value == pytest.approx(cosine, abs=1e-6)
    assert tags["images"] == ["balance/cosines"]


def test_many_tasks_are_summed_up_in_tensorboard():
    values = [[1.0 if i == j else -0.5 if i + j == 1 else 0.25 for i in range(9)] for j in range(9)]
    values[8][7] = values[7][8] = None
    told = {"cosines": {"tasks": list("abcdefghi"), "values": values}, "conflicts": None}
    found = dict(balance_scalars(told))
    assert found["balance/cosine_least"] == -0.5
    assert found["balance/cosine_mean"] == pytest.approx((34 * 0.25 - 0.5) / 35)
    assert not any(tag.startswith("cosine/") for tag in found)
    picture = heat_map(values)
    assert picture.shape == (108, 108, 3)
    assert tuple(picture[0, 0]) == (11, 95, 165)  # one task with itself
    assert picture[0, 12, 0] > picture[0, 12, 2]  # in conflict: orange
    assert tuple(picture[-1, -13]) == (128, 128, 128)  # never met
