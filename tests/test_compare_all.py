"""The table of methods by name and group; every balancing method through a whole comparison."""

import json
import math

import pytest

import taskgrove
from command_line import call
from taskgrove.balancing import BALANCERS
from taskgrove.errors import TaskgroveError
from taskgrove.methods import DEFAULT, GROUPS, METHODS, chosen
from taskgrove.tasks.task_set import load_tasks
from taskgrove.training.budget import Budget
from taskgrove.training.options import Options

MEAN_AT_FIRST = {"joint", "dwa", "dualproj"}  # dwa for two looks, dualproj without conflict
SAME_AS_JOINT = {"mean", "sum", "fixed"}


def test_every_balancer_is_a_method_with_its_own_sentence():
    missing = set(BALANCERS) - set(METHODS)
    assert missing == SAME_AS_JOINT
    for name in set(BALANCERS) - SAME_AS_JOINT:
        assert METHODS[name].about == BALANCERS[name].about
    assert set(DEFAULT) < set(METHODS)
    assert len(DEFAULT) == 8


def test_groups_are_their_methods_each_once_in_order():
    assert chosen(["all"]) == list(METHODS)
    assert chosen(["default", "joint"]) == list(DEFAULT)
    balancing = chosen(["balancing"])
    assert balancing[0] == "joint"
    assert set(balancing) >= set(BALANCERS) - SAME_AS_JOINT
    assert not set(balancing) & {"single", *GROUPS["merging"]}
    assert chosen(["ties", "merging"])[:2] == ["ties", "weight_average"]
    assert not set(GROUPS) & set(METHODS)
    settings = taskgrove.Settings(methods=["merging", "joint"])
    assert settings.all_methods == ["single", *GROUPS["merging"], "joint"]
    assert settings.to_json()["methods"] == [*GROUPS["merging"], "joint"]
    assert taskgrove.Settings().all_methods == list(DEFAULT)


@pytest.mark.parametrize(("name", "meant"), [("balancin", "balancing"), ("upgrd", "upgrad")])
def test_an_unknown_name_is_told_with_the_nearest(name, meant):
    with pytest.raises(TaskgroveError, match=f'no method "{name}".*"merging".*"{meant}"\\?$'):
        taskgrove.Settings(methods=["joint", name])
    sentence = call("compare", "--methods", f"joint,{name}").sentence()
    assert f'Did you mean "{meant}"?' in sentence


def test_every_balancing_method_trains_and_is_measured(small_tasks, tmp_path):
    settings = taskgrove.Settings(
        methods=["balancing"], budget=Budget(steps=3), seeds=(0,), start_steps=2,
        options=Options(batch_size=32, evaluations=1, watch=2),
    )  # fmt: skip
    results = taskgrove.compare(load_tasks(small_tasks), tmp_path, settings)
    assert list(results["methods"]) == ["single", *GROUPS["balancing"]]
    assert json.loads((tmp_path / "results.json").read_text()) == results
    page = (tmp_path / "report.html").read_text("utf-8")
    for name, method in results["methods"].items():
        tests = [score for task in method["tasks"].values() for score in task["test"]]
        assert all(math.isfinite(score) for score in tests), name
        assert f"{name}</th>" in page
        if name == "joint" or (name in BALANCERS and BALANCERS[name].needs != "rows"):
            told = method["balance"][0]["points"]
            assert ("weights" in told[0]) or name in MEAN_AT_FIRST, name
            assert len(told[0]["cosines"]["tasks"]) == 4, name
            assert told[0]["fallbacks"] == 0, name
            assert f"mean cosines under {name}" in page


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("moco", Options(level="features"), "moco keeps a state as long as a gradient"),
        ("sam_mtl", Options(level="features"), "leave out --level and --every"),
        ("sam_mtl", Options(every=2), "leave out --level and --every"),
    ],
)
def test_what_a_method_cannot_do_is_refused_before_anything_is_written(
    small_tasks, tmp_path, method, options, message
):
    task_set, budget = load_tasks(small_tasks), Budget(steps=2)
    with pytest.raises(TaskgroveError, match=message):
        taskgrove.train(method, task_set, tmp_path / "model", budget, options)
    settings = taskgrove.Settings(methods=["joint", method], budget=budget, options=options)
    with pytest.raises(TaskgroveError, match=message):
        taskgrove.compare(task_set, tmp_path / "run", settings)
    assert list(tmp_path.iterdir()) == []
