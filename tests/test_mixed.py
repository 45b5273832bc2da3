"""Rows of mixed tasks in one batch: predict by a column, and a server, equal to task by task."""

import csv
import http.client
import json
import threading
from contextlib import contextmanager

import pytest

import taskgrove
from command_line import call, works
from taskgrove.methods.prediction_server import prediction_server

QUICK = ("--steps", 30, "--start-steps", 4)


@pytest.fixture(scope="module", params=["lora", "joint"])
def folder(request, small_tasks, tmp_path_factory):
    """A model whose tasks have parts of their own, and one that shares all but heads."""
    out = tmp_path_factory.mktemp("mixed") / request.param
    works("train", request.param, "--tasks", small_tasks, *QUICK, "--out", out)
    return out


@pytest.fixture(scope="module")
def rows(small_tasks, tmp_path_factory):
    """Rows that name their task, as dicts; and the file that holds them."""
    with (small_tasks.parent / "table.csv").open() as file:
        table = [{k: row[k] for k in "abcd"} for row in csv.DictReader(file)][:24]
    names = ["tags", "side", "number", "side", "rare"]
    rows = [{"task": names[n % 5], **row} for n, row in enumerate(table)]
    path = tmp_path_factory.mktemp("rows") / "rows.csv"
    with path.open("w") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return rows, path


def test_a_mixed_file_is_each_task_alone(folder, rows, tmp_path):
    given, path = rows
    out = tmp_path / "out.jsonl"
    works("predict", folder, path, "--task-column", "task", "--batch-size", 10, "--out", out)
    found = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["task"] for row in found] == [row["task"] for row in given]
    model = taskgrove.load(folder)
    for name, task in model.tasks.items():
        alone = taskgrove.predict(model, name, path)
        for n, row in enumerate(found):
            if row["task"] != name:
                continue
            if task.kind == "number":
                assert float(row["prediction"]) == pytest.approx(alone[n], rel=1e-4)
                assert row["probability"] is None
            else:
                assert row["probability"] == pytest.approx(alone[n].max(), abs=1e-5)
            if task.kind == "classes":
                assert row["prediction"] == task.classes[alone[n].argmax()]
            if task.kind == "labels":
                chosen = [c for c, p in zip(task.classes, alone[n], strict=True) if p >= 0.5]
                assert row["prediction"] == ";".join(chosen)


def test_mistakes_in_a_mixed_file_are_one_sentence(folder, rows, tmp_path):
    _, path = rows
    wrong = tmp_path / "wrong.csv"
    wrong.write_text(path.read_text().replace("side", "sde", 1))
    sentence = call("predict", folder, wrong, "--task-column", "task").sentence()
    assert sentence.startswith('row 2 of wrong.csv names the task "sde"')
    assert 'Did you mean "side"?' in sentence
    wrong.write_text(path.read_text().replace("tags", "", 1))
    sentence = call("predict", folder, wrong, "--task-column", "task").sentence()
    assert 'row 1 of wrong.csv has no task in column "task"' in sentence
    both = ("--task-column", "task", "--task", "side")
    assert "not both" in call("predict", folder, path, *both).sentence()
    assert '"tsk" is not in' in call("predict", folder, path, "--task-column", "tsk").sentence()


@contextmanager
def running(model):
    served = prediction_server(model, "127.0.0.1", 0)
    threading.Thread(target=served.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield served.server_address[1]
    finally:
        served.shutdown()
        served.server_close()


def ask(port, path, body=None):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    data = body if body is None or isinstance(body, bytes) else json.dumps(body)
    connection.request("GET" if body is None else "POST", path, data)
    answer = connection.getresponse()
    found = answer.status, json.loads(answer.read())
    connection.close()
    return found


def test_the_server_answers_mixed_rows(folder, rows):
    given, path = rows
    given = [{k: v if k == "task" else float(v) for k, v in row.items()} for row in given]
    model = taskgrove.load(folder)
    with running(model) as port:
        status, found = ask(port, "/predict", {"rows": given})
        assert status == 200
        answers = found["predictions"]
        assert [a["task"] for a in answers] == [row["task"] for row in given]
        alone = taskgrove.predict(model, "side", path)
        for n, answer in enumerate(answers):
            if answer["task"] == "side":
                shares = dict(zip(model.tasks["side"].classes, alone[n], strict=True))
                assert answer["probabilities"] == pytest.approx(shares, abs=1e-5)
        assert ask(port, "/tasks")[1]["inputs"] == ["a", "b", "c", "d"]
        for body, words in [
            (b"{", "no JSON"),
            ({"rows": []}, "a row or more"),
            ({"rows": [{"task": "sde", **given[0]} | {"task": "sde"}]}, 'Did you mean "side"'),
            ({"rows": [{"task": "side", "a": 1}]}, 'row 0 lacks "b"'),
            ({"rows": [{**given[0], "e": 1}]}, 'row 0 has "e"'),
        ]:
            status, found = ask(port, "/predict", body)
            assert status == 400
            assert words in found["error"]["message"]
        assert ask(port, "/nothing", {})[0] == 404
