"""The training loop: exact resume after kills, processes that add up, budgets, divergence."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from taskgrove.balancing import BALANCERS
from taskgrove.errors import TaskgroveError
from taskgrove.methods.start import new_model
from taskgrove.tasks.task_set import load_tasks
from taskgrove.training.budget import Budget
from taskgrove.training.checkpoint import read_json
from taskgrove.training.fit import fit
from taskgrove.training.options import Options

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def task_set(small_tasks):
    return load_tasks(small_tasks)


def train(task_set, folder, balancer="mean", budget=None, seed=0, **options):
    model, _ = new_model(task_set, seed)
    record = fit(
        model, task_set, budget=budget or Budget(steps=24),
        options=Options(**{"batch_size": 32, "evaluations": 4, **options}),
        seed=seed, folder=folder, balancer=balancer,
    )  # fmt: skip
    return model, record


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("balancer", ["mean", "uncertainty", "pcgrad"])
def test_training_learns_and_repeats(task_set, tmp_path, balancer):
    model, record = train(task_set, tmp_path / "a", balancer, Budget(steps=40))
    again, _ = train(task_set, tmp_path / "b", balancer, Budget(steps=40))
    assert same(model.state_dict(), again.state_dict())
    losses = [sum(look["loss"].values()) for look in record.history]
    assert losses[-1] < 0.8 * losses[0]
    assert record.history[-1]["validation"]["side"] > 0.7


def test_a_finished_run_is_read_back_and_leaves_only_its_files(task_set, tmp_path):
    model, record = train(task_set, tmp_path)
    assert {path.name.split(".out.")[0] for path in tmp_path.iterdir()} == {
        "best.safetensors", "fit.json", "events",
    }  # fmt: skip
    again, read = train(task_set, tmp_path)
    assert same(model.state_dict(), again.state_dict())
    assert read == record


def test_the_best_look_is_what_the_model_holds(task_set, tmp_path):
    _, record = train(task_set, tmp_path, budget=Budget(steps=40), evaluations=8)
    looks = [sum(look["validation"].values()) / 4 for look in record.history]
    assert record.best == pytest.approx(max(looks))
    assert len(looks) == 8


def test_patience_stops_early(task_set, tmp_path):
    _, record = train(
        task_set, tmp_path, budget=Budget(steps=60), evaluations=30, patience=2,
        learning_rate=1e-30, head_learning_rate=1e-30,  # no look is better than the first
    )  # fmt: skip
    assert record.spent.steps == 6


@pytest.mark.parametrize(
    ("budget", "steps", "examples"),
    [
        (Budget(steps=10), 10, 320),
        (Budget(examples=100), 4, 100),
        (Budget(passes=100), 4, 100),
    ],
)
def test_budgets_are_met_exactly(task_set, tmp_path, budget, steps, examples):
    spent = train(task_set, tmp_path, budget=budget)[1].spent
    assert (spent.steps, spent.examples) == (steps, examples)
    assert spent.passes == pytest.approx(examples)


def test_pcgrad_pays_a_backward_a_task(task_set, tmp_path):
    spent = train(task_set, tmp_path, "pcgrad", Budget(steps=3))[1].spent
    assert spent.passes == pytest.approx(3 * 32 * (1 / 3 + 4 * 2 / 3))


def test_a_budget_in_seconds_ends(task_set, tmp_path):
    spent = train(task_set, tmp_path, budget=Budget(seconds=0.3))[1].spent
    assert spent.seconds >= 0.3


@pytest.mark.parametrize("given", [{}, {"steps": 1, "passes": 2}, {"steps": 0}, {"seconds": -1}])
def test_a_budget_is_one_positive_number(given):
    with pytest.raises(TaskgroveError, match="budget"):
        Budget(**given)


def test_the_warm_up_never_wastes_a_step(task_set, tmp_path):
    before = new_model(task_set, 0)[0].state_dict()
    after = train(task_set, tmp_path, budget=Budget(steps=1))[0].state_dict()
    assert not same(before, after)


def test_accumulation_is_the_whole_batch(task_set, tmp_path):
    whole, _ = train(task_set, tmp_path / "a", budget=Budget(steps=5))
    parts, _ = train(task_set, tmp_path / "b", budget=Budget(steps=5), accumulate=4)
    for name, value in whole.state_dict().items():
        assert torch.allclose(value, parts.state_dict()[name], atol=2e-5), name


@pytest.mark.parametrize("balancer", ["uncertainty", "pcgrad"])
def test_half_precision_learns_near_full(task_set, tmp_path, balancer):
    found = {}
    for precision in ("fp32", "bf16", "fp16"):
        model, record = train(
            task_set, tmp_path / precision, balancer, Budget(steps=30), precision=precision
        )
        found[precision] = model.state_dict()
        assert all(p.dtype == torch.float32 for p in model.parameters())
        assert record.history[-1]["validation"]["side"] > 0.7, precision
    assert not same(found["fp32"], found["bf16"])
    assert not same(found["fp32"], found["fp16"])


def test_a_last_batch_smaller_than_the_parts_is_whole(task_set, tmp_path):
    spent = train(task_set, tmp_path, budget=Budget(examples=34), accumulate=4)[1].spent
    assert (spent.steps, spent.examples) == (2, 34)


def test_divergence_names_task_and_step_and_keeps_the_last_checkpoint(task_set, tmp_path):
    with pytest.raises(TaskgroveError, match=r'diverged at step \d+: task "\w+"') as caught:
        train(task_set, tmp_path, budget=Budget(steps=200), learning_rate=1e6)
    assert str(caught.value).endswith(f"the last good checkpoint is kept in {tmp_path}")
    kept = load_file(tmp_path / "last.safetensors")
    assert all(value.isfinite().all() for value in kept.values() if value.is_floating_point())


def test_an_absent_task_does_not_move(task_set, tmp_path):
    model, _ = new_model(task_set, 0)
    before = [p.clone() for p in model.head("rare").parameters()]
    only = new_model(task_set, 0, ["side"])[0]
    fit(
        only, task_set, budget=Budget(steps=3), options=Options(batch_size=8, evaluations=1),
        seed=0, folder=tmp_path,
    )  # fmt: skip
    assert list(only.tasks) == ["side"]
    assert all(
        torch.equal(a, b) for a, b in zip(before, model.head("rare").parameters(), strict=True)
    )


def child(tasks, folder, *more):
    """`child_fit.py` in a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, HERE / "child_fit.py", tasks, folder, *more]
    return subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=500, env=environment
    )


@pytest.fixture(scope="module")
def ran(small_tasks, tmp_path_factory):
    """The folder of what one process and two made of every balancer; the child that did it, and
    that was killed three times."""
    folder = tmp_path_factory.mktemp("ran")
    return folder, child(small_tasks, folder, ",".join(BALANCERS), 3, 0)


def test_a_run_killed_three_times_ends_with_the_same_weights(ran):
    assert "same weights after 3 kills" in ran[1].stdout, ran[1].stderr[-3000:]


@pytest.mark.slow
def test_a_run_killed_twenty_times_ends_with_the_same_weights(small_tasks, tmp_path):
    assert "same weights after 20 kills" in child(small_tasks, tmp_path, "", 20, 1).stdout


def test_two_processes_give_the_result_of_one_on_the_joined_batch(small_tasks, ran):
    folder, done = ran
    assert (folder / "seconds/fit.json").exists(), done.stderr[-3000:]
    start = new_model(load_tasks(small_tasks), 0)[0].state_dict()
    for name, balancer in BALANCERS.items():
        one, two = (load_file(folder / n / name / "best.safetensors") for n in ("one", "two"))
        facts = [read_json(folder / n / name / "fit.json") for n in ("one", "two")]
        assert facts[0]["spent"]["passes"] == facts[1]["spent"]["passes"]
        if balancer.needs != "rows":
            met = [fact["history"][0]["balance"] for fact in facts]
            cosines = [torch.tensor(told["cosines"]["values"]) for told in met]
            assert torch.allclose(*cosines, atol=1e-3), name
        for tensor, value in one.items():
            assert torch.allclose(value, two[tensor], atol=2e-4), (name, tensor)
        moved = max(float((one[tensor] - start[tensor]).abs().max()) for tensor in one)
        assert moved > 5e-3, name


def test_two_processes_end_a_budget_in_seconds_together(ran):
    spent = read_json(ran[0] / "seconds/fit.json")["spent"]
    assert spent["seconds"] >= 0.6
    assert spent["examples"] == 32 * spent["steps"]
