"""Claims: verdicts from paired seeds, records that survive, runs that go on after a kill."""

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_1samp

import taskgrove
from command_line import call, works
from taskgrove import methods
from taskgrove.backbones import BACKBONES, minilm
from taskgrove.cli import catalogue
from taskgrove.measuring.claim import Claim, Statement, paired, t_interval
from taskgrove.measuring.claim_plot import plot
from taskgrove.suites import SUITES
from taskgrove.systems import SYSTEMS, runs
from taskgrove.systems.system import System

DIFFERENCES = st.lists(st.floats(-5, 5).map(lambda x: round(x, 2)), min_size=2, max_size=12)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@given(DIFFERENCES.filter(lambda d: np.std(d) > 1e-3))
def test_the_interval_is_students(differences):
    expected = ttest_1samp(differences, 0).confidence_interval(0.95)
    assert t_interval(differences) == pytest.approx((expected.low, expected.high))


@pytest.mark.parametrize(
    ("differences", "least", "margin", "verdict"),
    [
        ([2.0, 2.1, 1.9], 1.0, None, "holds"),
        ([0.5, 0.6, 0.4], 0.0, None, "holds"),
        ([0.5, 0.6, 0.4], 1.0, None, "does not hold here"),  # there, but smaller than promised
        ([0.9, 1.0, 0.8, 1.2, 0.7], 1.0, None, "undecided"),  # above 0, below 1, but not surely
        ([9.0, -7.0, 8.0], 1.0, None, "undecided"),
        ([-2.0, -2.1, -1.9], 0.0, None, "does not hold here"),
        ([5.0], 1.0, None, "undecided"),  # one seed proves nothing
        ([0.1, -0.1, 0.05, -0.05], 0.0, 0.5, "holds"),  # not worse
        ([0.1, -0.1, 0.05, -0.05], 0.0, None, "undecided"),  # but not better
        ([-0.2, -0.21, -0.19], 0.0, 0.5, "does not hold here"),  # worse, if by little
        ([3.0, -3.0, 1.0], 0.0, 0.5, "undecided"),
    ],
)
def test_verdicts(differences, least, margin, verdict):
    assert Statement("q", differences, least, margin).verdict == verdict


@given(DIFFERENCES, st.floats(-3, 3))
def test_better_data_never_makes_a_verdict_worse(differences, more):
    order = ["does not hold here", "undecided", "holds"]
    first = Statement("q", differences, 1.0)
    second = Statement("q", [d + abs(more) for d in differences], 1.0)
    assert order.index(second.verdict) >= order.index(first.verdict)


def claim_of(*statements):
    return Claim("toy", "points", [0, 1, 2], {"g": {"a": [1.0, 2.0, 3.0]}}, list(statements))


def test_the_claim_is_decided_by_what_counts():
    good, bad = Statement("a", [2.0, 2.1, 1.9]), Statement("b", [-2.0, -2.1, -1.9])
    open_ = Statement("c", [9.0, -7.0, 8.0])
    assert claim_of(good).verdict == "holds"
    assert claim_of(good, replace(bad, decides=False)).verdict == "holds"
    assert claim_of(good, open_).verdict == "undecided"
    assert claim_of(good, open_, bad).verdict == "does not hold here"
    assert claim_of().verdict == "undecided"


def test_a_record_comes_back():
    claim = claim_of(Statement("a", [2.0, 2.1, 1.9], 1.0, 0.5, False))
    facts = json.loads(json.dumps(claim.to_json()))
    assert Claim.of(facts) == claim
    assert facts["statements"][0]["effect"] == pytest.approx(2.0)
    assert facts["verdict"] == claim.verdict


def test_pairs_are_averaged_within_a_seed():
    assert paired([[3.0, 5.0], [1.0, 1.0]], [[1.0, 1.0], [1.0, 0.0]]) == [1.0, 2.5]


# --- runs -----------------------------------------------------------------------------------------


class StopError(Exception):
    """A kill."""


def toy(calls, stop_at=None):
    """A system whose arm `b` is 2 above `a`, and that stops before its `stop_at`-th part."""

    def run(arm, seed, quick):
        if len(calls) == stop_at:
            raise StopError
        calls.append((arm, seed))
        return {"score": 10.0 + seed + 2.1 * (arm == "b") + 0.1 * (seed == 1), "quick": quick}

    def conclude(found, seeds):
        scores = {arm: [part["score"] for part in parts] for arm, parts in found.items()}
        return Claim(
            "toy", "points", list(seeds), {"all": scores},
            [Statement("b is above a", paired([scores["b"]], [scores["a"]]))],
            {"by x": {"b": {"0.1": scores["b"], "1": scores["a"]}}}, dict(found),
        )  # fmt: skip

    return System("toy", "Toy", 2000, "https://example.org", ("mixing",), "A toy.", "b wins.", 1.0,
                  "taskgrove reproduce toy", ("a", "b"), run, conclude)  # fmt: skip


def test_a_killed_run_goes_on_to_the_same_claim(tmp_path):
    calls, out = [], tmp_path / "claims"
    with pytest.raises(StopError):
        runs.reproduce(toy(calls, stop_at=3), out, [0, 1, 2])
    assert sorted(path.name for path in (out / "toy.work").iterdir()) == [
        "a-seed-0.json", "a-seed-1.json", "b-seed-0.json",
    ]  # fmt: skip
    (out / "toy.work" / "b-seed-0.json").write_text('{"mark": ')  # half a file is no file
    told = []
    claim = runs.reproduce(toy(calls), out, [0, 1, 2], progress=lambda *t: told.append(t))
    assert calls == [("a", 0), ("b", 0), ("a", 1), ("b", 0), ("b", 1), ("a", 2), ("b", 2)]
    assert told[-1] == ("b", 2, 1.0)
    assert sorted(path.name for path in out.iterdir()) == ["toy.json", "toy.png"]
    facts = json.loads((out / "toy.json").read_text())
    assert Claim.of(facts) == claim == toy([]).claim(False, [0, 1, 2])
    assert facts["raw"]["b"][2] == {"score": 14.1, "quick": False}
    assert {"created", "versions", "machine"} <= facts.keys()


def test_what_other_code_found_is_found_again(tmp_path, monkeypatch):
    calls = []
    with pytest.raises(StopError):
        runs.reproduce(toy(calls, stop_at=1), tmp_path, [0])
    monkeypatch.setattr(runs, "_fingerprint", lambda *_: "another")
    runs.reproduce(toy(calls), tmp_path, [0])
    assert calls == [("a", 0), ("a", 0), ("b", 0)]


def test_one_seed_is_a_record_too(tmp_path):
    """Its interval is no number, and JSON has none: null."""
    claim = runs.reproduce(toy([]), tmp_path, [0], quick=True)
    assert claim.verdict == "undecided"
    assert math.isnan(claim.statements[0].interval[0])
    facts = json.loads((tmp_path / "toy-quick.json").read_text())
    assert facts["statements"][0]["interval"] == [None, None]
    assert Claim.of(facts) == claim
    assert (tmp_path / "toy-quick.png").read_bytes().startswith(b"\x89PNG")


def test_a_plot_needs_no_curves(tmp_path):
    plot(claim_of(Statement("a", [1.0, 2.0, 3.0])), tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 1000


def test_the_listing_says_what_holds(tmp_path):
    assert "not tried here (taskgrove x)" in catalogue.standing("toy", tmp_path, "taskgrove x")
    runs.reproduce(toy([]), tmp_path, [0, 1, 2])
    assert catalogue.standing("toy", tmp_path, "x").startswith("holds (3 seeds, 2")
    (tmp_path / "toy.json").rename(tmp_path / "atlas.json")
    assert "holds (3 seeds" in " ".join(works("systems", "--claims", tmp_path).split())
    (tmp_path / "atlas.json").write_text("{")
    assert "cannot be read" in " ".join(works("systems", "--claims", tmp_path).split())


def test_the_listing_is_what_imports_say_and_imports_none_of_it(tmp_path):
    groups = (methods.BASELINES, methods.BALANCING, methods.MERGING, methods.SHARING)
    expected = [{name: method.about for name, method in group.items()} for group in groups]
    assert list(catalogue.methods().values()) == expected
    assert catalogue.suites() == {name: suite.description for name, suite in SUITES.items()}
    made = {**BACKBONES, "minilm": minilm}
    titles = {n: (sys.modules[m.__module__].__doc__ or "").splitlines()[0] for n, m in made.items()}
    assert catalogue.backbones() == titles
    told = {n: f"{s.title} {s.year}: not tried here ({s.command})" for n, s in SYSTEMS.items()}
    assert catalogue.systems(tmp_path) == told
    code = "import sys; sys.argv = ['taskgrove', 'systems']\nfrom taskgrove.cli import main\n"
    code += "try: main()\nfinally: print([m for m in ('torch', 'numpy', 'taskgrove.methods',"
    code += "'taskgrove.systems') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "self_positioning" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


# --- the table and the command --------------------------------------------------------------------


def test_the_table_is_the_folder():
    folder = Path(taskgrove.__file__).parent / "systems"
    machinery = {"__init__", "system", "runs"}
    assert {path.stem for path in folder.glob("*.py")} - machinery == set(SYSTEMS)
    for slug, system in SYSTEMS.items():
        assert system.slug == slug
        assert system.link.startswith("https://")
        assert system.about.count(". ") == 2  # three sentences
        assert slug in system.command


def test_reproduce_prints_the_verdict(monkeypatch, tmp_path):
    monkeypatch.setitem(SYSTEMS, "toy", toy([]))
    said = works("reproduce", "toy", "--seeds", 3, "--jobs", 1)
    assert "toy: holds" in said
    assert "12.10" in " ".join(said.split()) or "13.1" in said  # mean of b
    assert (tmp_path / "results/claims/toy.json").exists()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("sam_mlt",), 'Did you mean "sam_mtl"?'),
        (("--seeds", 0), "--seeds is 0"),
        (("--jobs", 0), "--jobs is 0"),
        (("toy", "--out", "file/claims"), "cannot be written"),
    ],
)
def test_mistakes_are_sentences(words, sentence, monkeypatch, tmp_path):
    monkeypatch.setitem(SYSTEMS, "toy", toy([]))
    (tmp_path / "file").write_text("")
    assert sentence in call("reproduce", *words).sentence()


@pytest.mark.slow
def test_parts_side_by_side_find_the_same(tmp_path):
    """Two processes, started afresh."""
    alone = SYSTEMS["sam_mtl"].claim(True, [0])
    code = "from taskgrove.cli import main\nif __name__ == '__main__': main()"
    words = ["reproduce", "sam_mtl", "--quick", "--seeds", "1", "--jobs", "2", "--out", "c"]
    subprocess.run([sys.executable, "-c", code, *words], check=True, cwd=tmp_path)
    facts = json.loads((tmp_path / "c" / "sam_mtl-quick.json").read_text())
    assert Claim.of(facts).scores == alone.scores
