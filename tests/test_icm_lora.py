"""The claim about generated LoRAs: its tasks, its arms, what follows from what was found."""

import pytest
import torch

from taskgrove.systems import icm_lora
from taskgrove.systems.debian import lora_arms, lora_zoo
from taskgrove.systems.debian.facet_rows import made_up, task_rows
from taskgrove.systems.debian.lora_zoo import zoo


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    zoo.cache_clear()


def test_checkpoints_are_the_tail_of_one_run_and_come_back():
    here = zoo(0, True)
    assert len(here.tasks) == 8
    task = here.tasks[0]
    assert len(task.states) == lora_zoo.QUICK.kept
    numbers = sum(w.numel() for w in task.states[-1].values())
    assert numbers == 2 * 2 * 2 * 2 * 16  # layers, modules, A and B, rank, dim
    lora_zoo.write(here.sharing, task.states[-1])
    back = lora_zoo.read(here.sharing)
    assert all(torch.equal(back[name], w) for name, w in task.states[-1].items())
    steps = [sum((a[n] - b[n]).norm() for n in a)
             for a, b in zip(task.states, task.states[1:], strict=False)]  # fmt: skip
    assert all(0 < step < 1 for step in steps)
    assert any(w.any() for name, w in task.states[-1].items() if name.endswith(".B"))
    zoo.cache_clear()
    again = zoo(0, True).tasks[0].states[-1]  # from the cache
    assert all(torch.equal(again[name], w) for name, w in task.states[-1].items())


def test_vectors_and_loras_know_no_test_row(monkeypatch):
    plain = [(task.vector, task.states[-1]) for task in zoo(0, True).tasks]

    def other(*args):
        found = task_rows(*args)
        rows = found.parts["test"]
        rows.labels[:] = rows.labels[::-1]
        rows.texts[:] = [f"another {text}" for text in rows.texts]
        return found

    monkeypatch.setattr(lora_zoo, "task_rows", other)
    monkeypatch.setattr(lora_zoo, "mark_of", lambda *_: "another")
    zoo.cache_clear()
    for (c, state), task in zip(plain, zoo(0, True).tasks, strict=True):
        assert torch.equal(c, task.vector)
        assert all(torch.equal(state[n], w) for n, w in task.states[-1].items())


def test_no_tested_source_is_trained_on():
    table, counts = made_up(), {"train": 48, "validation": 0, "pool": 0, "test": 40}
    source = dict(zip(table["synopsis"], table["source"], strict=True))
    used = {part: set() for part in ("train", "test")}
    for facet in lora_zoo.FACETS:
        for part, seen in used.items():
            seen |= {source[text] for text in task_rows(table, facet, 0, counts).parts[part].texts}
    assert not used["test"] & used["train"]


def test_a_perfect_generator_recovers_all(monkeypatch):
    """The ridge with as many components as needed and no penalty gives the tasks' own back."""
    here = zoo(0, True)
    exact = lora_arms.weight_ridge
    monkeypatch.setattr(lora_arms, "weight_ridge", lambda w, c: exact(w, c, 31, 1e-6))
    one = [task.states[-1] for task in here.tasks]
    for task, state in zip(here.tasks, one, strict=True):
        task.states[:] = [state] * 4
    for own in (False, True):
        found = lora_arms.of_known(here, 0, lora_arms.QUICK, own)["accuracy"]
        assert found["ridge"] == found["original"] != found["none"]


def found_of(**more):
    """As `run` finds it: own LoRAs 90, none 50, the others as told."""

    def part(arms):
        scores = {arm: [50.0 + more.get(arm, 0.0)] * 2 for arm in arms}
        size = {"cvae": 8, "ridge": 4, "statistics": 1, "LoRAs": 2}
        return {"accuracy": {**scores, "original": [90.0] * 2, "none": [50.0] * 2}, "bytes": size}

    known = part(lora_arms.ARMS)
    return {"known": known, "known_own_statistics": known,
            "unseen": part(["soup", "cvae", "ridge", "nearest"])}  # fmt: skip


@pytest.mark.parametrize(
    ("more", "verdict"),
    [
        ({"cvae": 39.0}, "holds"),
        ({"cvae": 30.0}, "does not hold here"),  # 75 %
        ({"cvae": 39.0, "shuffled": 38.0}, "does not hold here"),
        ({"cvae": 39.0, "unconditional": 38.0}, "does not hold here"),
        ({"cvae": 39.0, "soup": 40.5}, "does not hold here"),
    ],
)
def test_what_decides(more, verdict):
    seeds = [found_of(**{**more, "cvae": more["cvae"] + 0.01 * n}) for n in range(3)]
    by_arm = {arm: [seed[arm] for seed in seeds] for arm in icm_lora.SYSTEM.arms}
    claim = icm_lora.conclude(by_arm, [0, 1, 2])
    assert claim.verdict == verdict
    assert any("4.00 times" in note for note in claim.notes)


def test_no_gain_is_no_number():
    found = icm_lora.recovered({"original": [50.0], "none": [50.0], "cvae": [60.0]})
    assert found["cvae"] != found["cvae"]


def test_the_quick_claim_runs():
    claim = icm_lora.SYSTEM.claim(True, [0])
    assert list(claim.scores) == list(icm_lora.GROUPS.values())
    known = claim.raw["known"][0]
    assert set(known["accuracy"]) == set(lora_arms.ARMS)
    assert all(len(each) == 8 for each in known["accuracy"].values())
    assert known["bytes"]["LoRAs"] == 4 * 256 * 8
    assert len(claim.raw["unseen"][0]["tasks"]) == 2
