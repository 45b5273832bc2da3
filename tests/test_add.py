"""A new task into a saved model: only its own part moves, old outputs stay bit for bit."""

import shutil

import pytest
import torch

import taskgrove
from command_line import call, works
from conftest import write_table
from taskgrove.errors import TaskgroveError
from taskgrove.methods import add as adding
from taskgrove.sharing.route import route

QUICK = ("--steps", 6, "--start-steps", 4)


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    """Old tasks, and new ones over the same table."""
    folder = tmp_path_factory.mktemp("add")
    old = write_table(folder)
    text = old.read_text().split("tasks:")[0]
    old.write_text(
        text + "tasks:\n  side: {target: side}\n  number: {target: number, kind: number}\n"
    )
    new = folder / "new.yaml"
    new.write_text(text + "tasks:\n  tags: {target: tags, kind: labels}\n  rare: {target: rare}\n")
    return old, new


@pytest.fixture(scope="module", params=["lora", "poly"])
def model(request, tasks, tmp_path_factory):
    out = tmp_path_factory.mktemp("models") / request.param
    works("train", request.param, "--tasks", tasks[0], *QUICK, "--out", out)
    return out


def outputs(folder):
    loaded = taskgrove.load(folder)
    x = {"numbers": torch.randn(9, 4, generator=torch.Generator().manual_seed(0)),
         "categories": torch.zeros(9, 0, dtype=torch.long)}  # fmt: skip
    prepared = {n: v for n, v in x.items() if n in ("numbers", "categories")}
    rows = {name: torch.arange(9) for name in ("side", "number")}
    with torch.no_grad():
        return loaded(prepared, route(rows))


def test_only_the_new_tasks_part_moves(model, tasks, tmp_path):
    out = tmp_path / "more"
    printed = works("add", model, "--tasks", tasks[1], "--steps", 6, "--out", out)
    assert "the same, bit for bit" in printed
    before, after = taskgrove.load(model), taskgrove.load(out)
    assert list(after.tasks) == ["side", "number", "tags", "rare"]
    for old, new in zip(before.trunks.parameters(), after.trunks.parameters(), strict=True):
        assert torch.equal(old, new)
    stacked = before.sharing.stacked()
    found = dict(after.sharing.named_parameters())
    for name, weight in before.sharing.named_parameters():
        kept = found[name][: len(weight)] if name in stacked else found[name]
        assert torch.equal(kept, weight)
    for task in before.tasks:
        assert torch.equal(before.head(task).weight, after.head(task).weight)
    assert not (tmp_path / "more.work").exists()
    # the new slices have learned: two tasks differ
    assert any((found[name][2] != found[name][3]).any() for name in stacked)


def test_full_trains_what_is_shared(tasks, tmp_path):
    works("train", "poly", "--tasks", tasks[0], *QUICK, "--out", tmp_path / "model")
    how = ("--tasks", tasks[1], "--steps", 6, "--mode", "full", "--out", tmp_path / "more")
    assert "may have changed" in works("add", tmp_path / "model", *how)
    before, after = (taskgrove.load(tmp_path / name).sharing for name in ("model", "more"))
    assert not torch.equal(before.parts[0].B["out"], after.parts[0].B["out"])


def test_a_run_that_was_stopped_goes_on_to_the_same_bits(model, tasks, tmp_path, monkeypatch):
    works("add", model, "--tasks", tasks[1], "--steps", 6, "--out", tmp_path / "whole")

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(adding, "prove", stop)
    with pytest.raises(KeyboardInterrupt):
        adding.add(model, taskgrove.load_tasks(str(tasks[1])), tmp_path / "again",
                   taskgrove.Budget(steps=6), taskgrove.Options())  # fmt: skip
    monkeypatch.undo()
    assert not (tmp_path / "again").exists()
    works("add", model, "--tasks", tasks[1], "--steps", 6, "--out", tmp_path / "again")
    one, two = (taskgrove.load(tmp_path / name).state_dict() for name in ("whole", "again"))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_change_of_old_outputs_is_never_written(tasks, tmp_path, monkeypatch):
    works("train", "lora", "--tasks", tasks[0], *QUICK, "--out", tmp_path / "model")
    monkeypatch.setattr(adding, "only_stacked", lambda sharing: sharing.parts[0].A[0].data.add_(1))
    answer = call("add", tmp_path / "model", "--tasks", tasks[1], "--steps", 2,
                  "--out", tmp_path / "more")  # fmt: skip
    assert 'changed what the model says of "side"' in answer.err
    assert answer.code == 2
    assert not (tmp_path / "more").exists()


def test_what_cannot_be_added_is_one_sentence(model, tasks, tmp_path):
    old, new = tasks
    out = ("--out", tmp_path / "more")
    assert 'a task "side" already' in call("add", model, "--tasks", old, *out).sentence()
    fewer = new.with_name("fewer.yaml")
    fewer.write_text(new.read_text().replace("[a, b, c, d]", "[a, b, c]"))
    assert (
        "numbers are ('a', 'b', 'c', 'd')" in call("add", model, "--tasks", fewer, *out).sentence()
    )
    text = new.with_name("text.yaml")
    text.write_text(new.read_text().replace("numbers: [a, b, c, d]", "text: number"))
    assert 'the model reads "table"' in call("add", model, "--tasks", text, *out).sentence()
    works("train", "joint", "--tasks", old, *QUICK, "--out", tmp_path / "joint")
    sentence = call("add", tmp_path / "joint", "--tasks", new, *out).sentence()
    assert "shares all weights" in sentence
    shutil.rmtree(tmp_path / "joint")
    with pytest.raises(TaskgroveError, match="is not a model folder"):
        adding.add(tmp_path / "joint", taskgrove.load_tasks(str(new)), tmp_path / "more",
                   taskgrove.Budget(steps=1), taskgrove.Options())  # fmt: skip
