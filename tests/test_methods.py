"""Methods and comparisons in Python: own modules, merged models, what a run folder refuses."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import taskgrove
from conftest import write_table
from taskgrove.backbones import wrap
from taskgrove.errors import TaskgroveError
from taskgrove.methods.merged import task_vectors
from taskgrove.methods.method import Job
from taskgrove.methods.single import fine_tunes, heads_of
from taskgrove.methods.start import new_model, start
from taskgrove.tasks.task_set import load_tasks
from taskgrove.training.budget import Budget
from taskgrove.training.evaluate import goodness, predict, scores
from taskgrove.training.mixtures import rates_of, task_rates
from taskgrove.training.options import Options

QUICK = Options(batch_size=32, evaluations=2)


class Own(nn.Module):
    """A trunk of a user's own."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 16)

    def forward(self, inputs):
        return self.layer(inputs["x"]).tanh()


def own_trunk():
    """Made anew for each model; its name stands in results.json."""
    return wrap(Own(), 16, {"table"}, lambda raw: {"x": torch.as_tensor(raw["numbers"])})


@pytest.fixture(scope="module")
def task_set(small_tasks):
    return load_tasks(small_tasks)


@pytest.fixture(scope="module")
def job(task_set, tmp_path_factory):
    folder = tmp_path_factory.mktemp("job")
    place, _, _ = start(task_set, folder / "start", seed=0, steps=20, options=QUICK)
    return Job(task_set, place, Budget(steps=80), QUICK, 0, folder)


def test_a_module_of_ones_own_is_compared_saved_and_loaded(task_set, tmp_path):
    settings = taskgrove.Settings(
        methods=["joint", "task_arithmetic", "adamerging"], budget=Budget(steps=8), seeds=(0,),
        options=QUICK, start_steps=4, backbone=own_trunk,
    )  # fmt: skip
    results = taskgrove.compare(task_set, tmp_path / "run", settings)
    assert results["config"]["backbone"] == "own_trunk"
    assert json.loads((tmp_path / "run" / "results.json").read_text()) == results
    model = taskgrove.load(tmp_path / "run" / "model", own_trunk)
    found = predict(model, task_set, "test", ["side"])["side"]
    assert np.allclose(found.sum(1), 1)


def test_single_is_the_fine_tunes_and_they_are_trained_once(job):
    first = fine_tunes(job)
    times = {path: path.stat().st_mtime_ns for path in (job.folder / "single").rglob("*.json")}
    outcome = taskgrove.METHODS["single"].run(job)
    again = {path: path.stat().st_mtime_ns for path in (job.folder / "single").rglob("*.json")}
    assert times == again
    assert len(times) == 4
    whole = predict(outcome.model, job.task_set, "test")
    for name, (model, _) in first.items():
        assert np.array_equal(whole[name], predict(model, job.task_set, "test")[name])
    assert outcome.passes == pytest.approx(80 * 32, abs=4)


def test_a_merged_scale_is_the_best_of_its_grid_on_validation(job):
    """Also that looking at one scale leaves the base and the vectors as they were."""
    outcome = taskgrove.METHODS["task_arithmetic"].run(job)
    tuned = fine_tunes(job)
    model = heads_of(job, tuned)
    base, tau = task_vectors(model, tuned)

    def worth(scale):
        merged = {name: base[name] + scale * tau[name].sum(0) for name in base}
        model.trunks[0].load_state_dict(merged)
        found = predict(model, job.task_set, "validation")
        return goodness(job.task_set, scores(job.task_set, "validation", found))

    grid = {scale: worth(scale) for scale in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)}
    assert outcome.scales["scale"] == max(grid, key=lambda scale: grid[scale])


def test_weight_average_is_the_mean_of_the_trunks(job):
    outcome = taskgrove.METHODS["weight_average"].run(job)
    trunks = [model.trunks[0].state_dict() for model, _ in fine_tunes(job).values()]
    for name, value in outcome.model.trunks[0].state_dict().items():
        mean = torch.stack([trunk[name] for trunk in trunks]).mean(0)
        assert torch.allclose(value, mean, atol=1e-6)


def test_adamerging_goes_on_after_a_kill_to_the_same_weights(job):
    whole = taskgrove.METHODS["adamerging"].run(job)
    steps = []

    def tell(what, done, _):
        if what == "adamerging":
            steps.append(done)
            if len(steps) == 25:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        taskgrove.METHODS["adamerging"].run(Job(**{**vars_of(job), "progress": tell}))
    assert (job.folder / "adamerging.safetensors").exists()
    again = taskgrove.METHODS["adamerging"].run(job)
    assert again.coefficients == whole.coefficients
    assert not (job.folder / "adamerging.safetensors").exists()


def vars_of(job):
    """The fields of a job."""
    return {name: getattr(job, name) for name in job.__dataclass_fields__}


def test_a_changed_tasks_file_is_another_run(tmp_path):
    path = write_table(tmp_path / "data", rows=200)
    settings = taskgrove.Settings(
        methods=["joint"], budget=Budget(steps=2), seeds=(0,), options=QUICK, start_steps=2
    )
    taskgrove.compare(load_tasks(path), tmp_path / "run", settings)
    path.write_text(path.read_text() + "mixture: proportional\n")
    with pytest.raises(TaskgroveError, match=r"other settings \(data differ"):
        taskgrove.compare(load_tasks(path), tmp_path / "run", settings)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("mixture: proportionl", 'Did you mean "proportional"?'),
        ("mixture: {temprature: 2}", 'Did you mean "temperature"?'),
        ("mixture: {weights: {side: 1, rare: 1, tags: 1, number: 0}}", '"number" no rows'),
        ("mixture: {weights: {sid: 1}}", "sid"),
        ("mixture: {groups: {all: [side, sid]}}", "sid"),
        ("mixture: {groups: {one: [side], two: [side]}}", "2 places"),
        ("mixture: {groups: {one: {task: [side]}}}", 'Did you mean "tasks"?'),
    ],
)
def test_a_mistaken_mixture_is_told_before_a_run_folder_is_made(tmp_path, line, message):
    path = write_table(tmp_path / "data", rows=200)
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(TaskgroveError, match=None) as caught:
        taskgrove.compare(load_tasks(path), tmp_path / "run", taskgrove.Settings())
    assert message in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_metric_for_another_kind_is_told_first(tmp_path):
    path = write_table(tmp_path / "data", rows=200)
    path.write_text(path.read_text().replace("{target: side}", "{target: side, metric: r2}"))
    with pytest.raises(TaskgroveError, match='task "side"'):
        taskgrove.train("joint", load_tasks(path), tmp_path / "m", Budget(steps=1), QUICK)
    assert [p.name for p in tmp_path.iterdir()] == ["data"]


def test_rates_keep_the_order_and_sum_to_one():
    sizes = {"b": 300, "a": 100}
    assert list(task_rates(sizes, {"temperature": 2})) == ["b", "a"]
    assert sum(task_rates(sizes, {"temperature": 2, "cap": 200}).values()) == pytest.approx(1)


def test_a_tasks_file_may_nest_mixtures(tmp_path):
    path = write_table(tmp_path / "data", rows=200)
    path.write_text(
        path.read_text()
        + "mixture:\n  groups:\n    words: {tasks: [side, tags], weights: {side: 3,"
        " tags: 1}}\n  weights: {words: 1, rare: 1, number: 2}\n"
    )
    rates = rates_of(load_tasks(path))
    assert rates == pytest.approx({"side": 0.1875, "rare": 0.25, "tags": 0.0625, "number": 0.5})


def test_new_heads_and_trunks_depend_on_the_seed_alone(task_set):
    torch.manual_seed(5)
    one = new_model(task_set, 3)[0].state_dict()
    torch.manual_seed(6)
    two, other = new_model(task_set, 3)[0].state_dict(), new_model(task_set, 4)[0].state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_a_backbone_that_reads_something_else_is_refused(task_set):
    with pytest.raises(TaskgroveError, match="cnn"):
        new_model(task_set, 0, name="cnn")


def test_the_run_folder_holds_what_the_readme_says(task_set, tmp_path):
    settings = taskgrove.Settings(
        methods=["joint"], budget=Budget(steps=2), seeds=(0,), options=QUICK, start_steps=2
    )
    results = taskgrove.compare(task_set, tmp_path, settings)
    assert {p.name for p in Path(tmp_path).iterdir()} == {
        "model", "report.html", "results.json", "run.json", "work",
    }  # fmt: skip
    assert results["best"]["method"] in results["methods"]
