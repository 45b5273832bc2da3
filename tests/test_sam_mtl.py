"""The system sam_mtl: its experiment at tiny sizes, and training on a tasks file."""

import numpy as np
import pytest
import torch

from taskgrove.balancing.task_sam import Flat, TaskSAM
from taskgrove.errors import TaskgroveError
from taskgrove.methods.start import new_model
from taskgrove.methods.train import train as train_method
from taskgrove.suites.two_digits import pairs
from taskgrove.systems import SYSTEMS, sam_mtl
from taskgrove.tasks.task_set import load_tasks
from taskgrove.training.asked import asked
from taskgrove.training.batch import Feed
from taskgrove.training.budget import Budget
from taskgrove.training.fit import fit
from taskgrove.training.options import Options

FLAT = Flat("cagrad", 0.1)


@pytest.fixture(scope="module")
def task_set(small_tasks):
    return load_tasks(small_tasks)


# --- the experiment -------------------------------------------------------------------------------


def test_two_digits_are_what_they_say():
    noisy, clean = (pairs(3, noise, (400, 200, 300)) for noise in (0.3, 0.0))
    for (x, y), (same, z), count in zip(noisy, clean, (400, 200, 300), strict=True):
        assert x.shape == (count, 144)
        assert torch.equal(x, same)
        assert torch.equal(y[0], z[0])  # left labels are clean
        assert 0 <= x.min() < x.max() <= 1
    wrong = [(a[1][1] != b[1][1]).double().mean().item() for a, b in zip(noisy, clean, strict=True)]
    assert 0.18 < wrong[0] < 0.36  # 0.3 drawn, a tenth of them right by chance
    assert 0.15 < wrong[1] < 0.39
    assert wrong[2] == 0
    corners = clean[0][0].reshape(-1, 12, 12)
    assert not corners[:, :4, 8:].any()  # neither digit reaches the other corners
    assert not corners[:, 8:, :4].any()
    splits = [{row.numpy().tobytes() for row in x} for x, _ in clean]
    assert not splits[0] & splits[1] | splits[0] & splits[2] | splits[1] & splits[2]


def test_the_quick_claim_runs_and_is_whole():
    told = []
    claim = SYSTEMS["sam_mtl"].claim(True, [0], lambda *message: told.append(message))
    assert set(claim.scores) == {"noisy", "clean"}
    for scores in claim.scores.values():
        assert set(scores) == set(sam_mtl.ARMS)
        assert all(0 <= found[0] <= 100 for found in scores.values())
    assert told[-1][2] == 1
    parts = [part[group] for (part,) in claim.raw.values() for group in ("noisy", "clean")]
    best = [int(np.argmax(part["validation"])) for part in parts]
    assert [part["chosen"] for part in parts] == best
    assert best != [int(np.argmax(part["test"])) for part in parts]  # or this shows nothing
    decides = [statement.question for statement in claim.statements if statement.decides]
    assert decides == [
        "noisy: F-X is 1 point or more above X", "noisy: F-X is not below plain SAM",
    ]  # fmt: skip
    again = sam_mtl.run("F-cagrad", 0, True)["noisy"]
    assert again["test"] == claim.raw["F-cagrad"][0]["noisy"]["test"]  # repeatable


def test_validation_alone_chooses():
    """The chosen value has the best validation, whatever its test score; arms are then paired."""
    part = {"values": [0.05, 0.1], "validation": [50.0, 60.0], "test": [90.0, 40.0], "chosen": 1}
    found = {arm: [{"noisy": part, "clean": part}] * 2 for arm in sam_mtl.ARMS}
    claim = sam_mtl.conclude(found, [0, 1])
    assert claim.scores["noisy"]["F-mgda"] == [40.0, 40.0]
    better = {**part, "test": [90.0, 43.0]}
    for name in sam_mtl.METHODS:
        found[f"F-{name}"] = [{"noisy": better, "clean": part}] * 2
    first, second = sam_mtl.conclude(found, [0, 1]).statements[:2]
    assert (first.differences, second.differences) == ([3.0, 3.0], [3.0, 3.0])


def test_all_arms_see_the_same_batches_and_weights():
    data = pairs(0, 0.3, (100, 100, 100))
    nets = [next(sam_mtl.train(arm, 0.0, data, 0, 1)) for arm in ("mean", "weight_decay", "sam")]
    nets.append(next(sam_mtl.train("F-mean", 0.0, data, 0, 1)))
    for net in nets[1:]:
        for p, q in zip(nets[0].parameters(), net.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-6)


# --- on a tasks file ------------------------------------------------------------------------------


def train(task_set, folder, balancer=FLAT, steps=12, progress=None, **options):
    model, _ = new_model(task_set, 0)
    record = fit(
        model, task_set, budget=Budget(steps=steps), seed=0, folder=folder, balancer=balancer,
        options=Options(**{"batch_size": 32, "evaluations": 4, **options}), progress=progress,
    )  # fmt: skip
    return model, record


def same(a, b):
    return all(torch.equal(value, b.state_dict()[name]) for name, value in a.state_dict().items())


def test_training_learns_and_repeats(task_set, tmp_path):
    model, record = train(task_set, tmp_path / "a", steps=24)
    again, _ = train(task_set, tmp_path / "b", steps=24)
    assert same(model, again)
    losses = [sum(look["loss"].values()) for look in record.history]
    assert losses[-1] < 0.9 * losses[0]
    passes = 1 / 3 * (1 + 4) + 2 / 3 * 2 * 4  # four tasks of one table
    assert record.spent.passes == pytest.approx(24 * 32 * passes)


def test_a_stopped_run_goes_on_to_the_same_weights(task_set, tmp_path):
    """gradvac has a state for each of the two calls."""

    def stop(done, _losses):
        if done > 0.6:
            raise KeyboardInterrupt

    method = Flat("gradvac", 0.2)
    with pytest.raises(KeyboardInterrupt):
        train(task_set, tmp_path / "a", method, progress=stop)
    resumed, record = train(task_set, tmp_path / "a", method)
    whole, other = train(task_set, tmp_path / "b", method)
    assert same(resumed, whole)
    assert record.spent.steps == other.spent.steps == 12


def test_no_radius_is_the_method(task_set, tmp_path):
    flat, _ = train(task_set, tmp_path / "a", Flat("mgda", 0.0), steps=5)
    plain, _ = train(task_set, tmp_path / "b", "mgda", steps=5)
    for p, q in zip(flat.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-3, atol=1e-5)


def test_accumulation_is_the_whole_batch(task_set, tmp_path):
    whole, _ = train(task_set, tmp_path / "a", steps=5)
    parts, _ = train(task_set, tmp_path / "b", steps=5, accumulate=4)
    for p, q in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-3, atol=1e-5)


def test_a_loss_does_not_depend_on_which_others_are_asked_for(task_set):
    """Two tables; noise is drawn for each of them, and not for tables without a task asked for."""
    feed = Feed(task_set, {0: ("a", "b"), 1: ("c",)}, {}, {})
    tables, rows, counts = np.array([0, 0, 1]), np.arange(3), {"a": 2, "b": 1, "c": 1}
    ran = []

    def losses(of, mine, present):
        ran.append(list(present))
        assert len(of) == len(mine)
        return list(torch.rand(len(mine)).sum() + torch.arange(len(present)))

    def found(tasks):
        torch.manual_seed(7)
        return asked(losses, feed, ["a", "b", "c"], tables, rows, counts, tasks)

    every = found([0, 1, 2])
    ran.clear()
    assert [found([task])[0] for task in range(3)] == every
    assert ran == [["a", "b"], ["a", "b"], ["c"]]
    assert found([2, 0]) == [every[2], every[0]]
    other = asked(losses, feed, ["a", "b", "c"], tables, rows, counts, [0])
    assert other != every[:1]  # new noise as the random numbers go on


def test_the_method_writes_a_model_folder(task_set, tmp_path):
    found = train_method(
        "sam_mtl", task_set, tmp_path / "model", Budget(steps=8), Options(), start_steps=4
    )
    assert set(found) == set(task_set.tasks)
    assert (tmp_path / "model").is_dir()


@pytest.mark.parametrize("options", [{"level": "features"}, {"every": 2}])
def test_it_needs_exact_gradients_in_each_step(task_set, tmp_path, options):
    with pytest.raises(TaskgroveError, match="exact gradients"):
        train(task_set, tmp_path, **options)


def test_processes_add_up():
    """Two processes with half of the rows each; here both halves are alike."""
    torch.manual_seed(0)
    trunk, heads = torch.nn.Linear(3, 4), torch.nn.ModuleList(torch.nn.Linear(4, 1) for _ in "ab")
    x, own = torch.randn(6, 3), list(heads.parameters())

    def losses(tasks, share=1.0):
        return [share * (heads[t](trunk(x)) - t).square().mean() for t in tasks]

    found = []
    for part, reduce in ((losses, None), (lambda t: losses(t, 0.5), lambda v: v.mul_(2))):
        trunk.zero_grad()
        heads.zero_grad()
        ours = TaskSAM("cagrad", 2, shared=trunk)
        done = ours.run([part], [0, 1], torch.ones(2), own=own, all_reduce=reduce)
        found.append([*(p.grad for p in trunk.parameters()), *(p.grad for p in own), done.losses])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b)
