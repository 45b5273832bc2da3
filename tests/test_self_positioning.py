"""The claim about text embeddings: its data without a network, its arms, the quick form of it."""

import importlib.machinery
from collections import Counter, defaultdict

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from taskgrove.errors import TaskgroveError
from taskgrove.measuring.claim import Claim
from taskgrove.merging.learned.vectors import MemoryVectors
from taskgrove.suites import docstring_pairs, embedding_pairs
from taskgrove.suites.debian_index import read_index
from taskgrove.suites.embedding_pairs import SIZES, TASKS, from_debian, from_lexicon, read_german
from taskgrove.systems.embedding import setting as settings
from taskgrove.systems.embedding.arms import cosines, position, schedule, tuned
from taskgrove.systems.embedding.setting import DEVELOPMENT, QUICK, setting
from taskgrove.systems.self_positioning import SYSTEM

PACKAGES = """\
Package: gimp
Source: gimp (2.10)
Section: graphics
Description: The GNU Image Manipulation Program
Description-md5: aa
Tag: role::program

Package: gimp-data
Source: gimp
Section: graphics
Description: Data files for GIMP
Description-md5: bb
Tag: role::app-data

Package: gimp-copy
Source: other
Section: graphics
Description: The GNU image manipulation program 3
Description-md5: cc
Tag: role::program

Package: short
Section: graphics
Description: too little is said of it
Description-md5: dd
Tag: role::{program,plugin}

"""
LONG = "GIMP can draw and so can gimp, in more ways than one line of a description may hold here."
ENGLISH = f"""\
Package: gimp
Description-md5: aa
Description-en: The GNU Image Manipulation Program
 {LONG}

Package: gimp-data
Description-md5: bb
Description-en: Data files for GIMP
 This package holds what gimp-data has to hold, that is brushes, patterns and whatever else it is.

"""
GERMAN = """\
Package: gimp
Description-md5: aa
Description-de: Das GNU-Bildbearbeitungsprogramm
 Lang.

Package: gimp-data
Description-md5: older
Description-de: Veraltet

Package: short
Description-md5: dd
Description-de: Too little is said of it

"""
LEXICON = """<?xml version="1.0"?><sentiment>
<word form="good" sense="of high quality" polarity="0.7" />
<word form="fine" sense="of high quality" polarity="0.1" />
<word form="bad" sense="below a standard" polarity="-0.7" />
<word form="plain" sense="not elaborate at all" polarity="0.1" />
<word form="odd" sense="odd" polarity="-0.9" /><word form="none" polarity="0.9" />
</sentiment>"""


@pytest.fixture
def index(tmp_path):
    """The files of an index, and what the rows are made of."""
    texts = {"Packages": PACKAGES, "en": ENGLISH, "de": GERMAN}
    files = {name: tmp_path / name for name in texts}
    for name, text in texts.items():
        files[name].write_text(text, "utf8")
    found = read_index([files["Packages"]], [files["en"]])
    return found, read_german([files["Packages"], files["en"]], [files["de"]])


def test_a_translation_belongs_to_its_very_text(index):
    """One of an older text is left out."""
    assert index[1] == {
        "gimp": "Das GNU-Bildbearbeitungsprogramm", "short": "Too little is said of it",
    }  # fmt: skip


def test_rows_of_an_index(index):
    rows = {(row.task, row.query): row for row in from_debian(*index)}
    assert Counter(task for task, _ in rows) == {"retrieval": 2, "translation": 1, "role": 2}
    told = rows["retrieval", LONG.replace("GIMP", "it").replace("gimp", "it")]
    assert told.positive == "The GNU Image Manipulation Program"
    data = next(row for row in rows.values() if row.positive == "Data files for it")
    assert "gimp" not in data.query
    assert len({row.split for row in rows.values()}) == 1  # one source, one split
    assert {row.label for row in rows.values() if row.task == "role"} == {"program", "app-data"}
    translation = rows["translation", "The GNU Image Manipulation Program"]
    assert translation.positive == "Das GNU-Bildbearbeitungsprogramm"


def test_a_definition_has_the_mean_valence_of_its_words(tmp_path):
    file = tmp_path / "en-sentiment.xml"
    file.write_text(LEXICON)
    rows = {row.query: row.label for row in from_lexicon(file)}
    assert rows == {"of high quality": "positive", "below a standard": "negative"}


def test_what_is_missing_is_said_before_anything_is_fetched(monkeypatch, tmp_path):
    monkeypatch.setattr(embedding_pairs, "find_spec", lambda _: None)
    monkeypatch.setattr(embedding_pairs, "fetch_index", lambda _: pytest.fail("fetched"))
    with pytest.raises(TaskgroveError, match=r"no package textblob, expected .* pip install"):
        embedding_pairs.write(tmp_path / "pairs.parquet", print)
    empty = importlib.machinery.ModuleSpec("textblob", None, is_package=True)
    monkeypatch.setattr(embedding_pairs, "find_spec", lambda _: empty)
    with pytest.raises(TaskgroveError, match=r"without en/en-sentiment\.xml"):
        embedding_pairs.write(tmp_path / "pairs.parquet", print)


@pytest.mark.usefixtures("index")
def test_the_file_is_made_once(monkeypatch, tmp_path):
    """Through the cache, and read again as it was written."""
    lexicon = tmp_path / "en-sentiment.xml"
    lexicon.write_text(LEXICON)
    monkeypatch.setenv("TASKGROVE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(embedding_pairs, "rated_words", lambda: lexicon)
    files = [tmp_path / "Packages"], [tmp_path / "en"]
    monkeypatch.setattr(embedding_pairs, "fetch_index", lambda _: files)
    monkeypatch.setattr(embedding_pairs, "fetch_german", lambda _: [tmp_path / "de"])
    first = embedding_pairs.pairs()
    counts = {"retrieval": 2, "translation": 1, "role": 2, "valence": 2}
    assert Counter(row.task for row in first) == counts
    monkeypatch.setattr(embedding_pairs, "rated_words", lambda: pytest.fail("made again"))
    assert embedding_pairs.pairs() == first


@given(st.text(max_size=20))
def test_splits_are_whole(key):
    assert embedding_pairs.split_of(key) in embedding_pairs.SPLITS


def test_shares_of_the_splits():
    found = Counter(embedding_pairs.split_of(str(n)) for n in range(4000))
    for split, share in embedding_pairs.SPLITS.items():
        assert found[split] / 4000 == pytest.approx(share, abs=0.03)


@pytest.mark.usefixtures("index")
def test_an_index_without_a_task_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(embedding_pairs, "rated_words", lambda: tmp_path / "none.xml")
    (tmp_path / "none.xml").write_text(LEXICON)
    files = [tmp_path / "Packages"], [tmp_path / "en"]
    monkeypatch.setattr(embedding_pairs, "fetch_index", lambda _: files)
    monkeypatch.setattr(embedding_pairs, "fetch_german", lambda _: [])
    with pytest.raises(TaskgroveError, match='no row for "translation" among its 4 packages'):
        embedding_pairs.write(tmp_path / "pairs.parquet", print)
    assert not (tmp_path / "pairs.parquet").exists()


# --- the setting of a seed ------------------------------------------------------------------------


def test_docstrings_have_the_form_of_the_real_rows():
    rows = docstring_pairs.docstrings()
    assert {row.task for row in rows} == set(TASKS)
    for task in TASKS:
        mine = [row for row in rows if row.task == task]
        assert len({bool(row.label) for row in mine}) == 1
        assert len({row.split for row in mine}) == 3
        assert all(row.query and bool(row.positive) != bool(row.label) for row in mine)


def texts(pairs):
    return set(zip(pairs.first, pairs.second or pairs.classes, strict=True))


def test_parts_share_no_row_and_seeds_draw_anew():
    a, b = setting(0, True), setting(1, True)
    for task in TASKS:
        parts = [texts(a.rows[part][task]) for part in ("train", "probe", "test")]
        assert parts[0].isdisjoint(parts[1] | parts[2])
        assert parts[1].isdisjoint(parts[2])
        assert len(a.rows["probe"][task]) == QUICK.probe
        assert len(a.rows["train"][task]) == QUICK.rows[task]
        assert list(a.rows["test"][task].first) != list(b.rows["test"][task].first)


def test_settings_are_not_fixed_on_rows_that_a_claim_reads():
    """A development seed tests on what the probe's part has left."""
    rows = docstring_pairs.docstrings()
    seed = setting(DEVELOPMENT, True)
    for task in TASKS:
        claimed = {row.query for row in rows if row.task == task and row.split == "test"}
        probed = {row.query for row in rows if row.task == task and row.split == "probe"}
        assert set(seed.rows["test"][task].first) <= probed
        assert set(setting(0, True).rows["test"][task].first) <= claimed
        assert texts(seed.rows["test"][task]).isdisjoint(texts(seed.rows["probe"][task]))


def test_a_text_is_read_once_and_means_the_same_in_any_company():
    s = setting(0, True)
    W, some = s.encoder.base(), ["one text", "another, longer text of more words", "one text"]
    together = s.embed(W, some)
    torch.testing.assert_close(together[0], together[2])
    torch.testing.assert_close(s.embed(W, [some[1]])[0], together[1])
    torch.testing.assert_close(together.norm(dim=1), torch.ones(3))
    assert "one text" in s.kept


@pytest.mark.parametrize("temperature", [1.0, 2.0, float("inf")])
def test_joint_steps_follow_the_rates(temperature):
    steps = schedule(SIZES, temperature, 120, seed=0)
    found = Counter(steps)
    rates = np.array([SIZES[task] ** (1 / temperature) for task in TASKS])
    expected = 120 * rates / rates.sum()
    assert [found[task] for task in TASKS] == pytest.approx(expected, abs=1)
    assert len(steps) == 120
    assert steps != sorted(steps, key=TASKS.index)
    assert steps == schedule(SIZES, temperature, 120, seed=0)


def test_training_lowers_its_tasks_loss_and_leaves_the_start_alone():
    s = setting(0, True)
    base = s.encoder.base()
    before = {name: w.clone() for name, w in base.items()}
    batch = s.draws("train")["retrieval"]()
    W = s.train(base, ["retrieval"] * 20)
    assert s.loss(W, batch) < s.loss(base, batch)
    assert all(torch.equal(base[name], before[name]) for name in base)


def test_gradients_are_those_of_the_losses():
    s = setting(0, True)
    base = s.encoder.base()
    G = s.gradients(base, 2)
    W = {name: w.clone().requires_grad_() for name, w in base.items()}
    s.loss(W, s.draws("train")["role"]()).backward()
    flat = torch.cat(
        [(torch.zeros_like(w) if w.grad is None else w.grad).flatten() for w in W.values()]
    )
    torch.testing.assert_close(G[TASKS.index("role"), 0], flat)
    assert len(cosines(G)) == 2 * 6


def test_cosines_by_hand():
    G = torch.tensor([[[1.0, 0.0]], [[2.0, 2.0]], [[-3.0, 0.0]]])
    assert cosines(G) == pytest.approx([0.5**0.5, -1.0, -(0.5**0.5)])


def test_tuning_on_the_probe_keeps_the_best_look(monkeypatch):
    """The start is one of the looks."""
    s = setting(0, True)
    base = s.encoder.base()
    looks = iter([5.0, 4.0, 3.0])
    monkeypatch.setattr(settings.Setting, "scores", lambda *_: {"mean": next(looks)})
    assert tuned(s, base) == base
    looks = iter([5.0, 7.0, 6.0])
    kept = tuned(s, base)
    assert any(not torch.equal(kept[name], base[name]) for name in base)


def test_a_position_is_in_the_span():
    s = setting(0, True)
    base = s.encoder.base()
    tau = {n: 0.01 * torch.randn(4, *w.shape, generator=torch.Generator().manual_seed(0))
           for n, w in base.items()}  # fmt: skip
    W, told = position(s, MemoryVectors(base, tau), relative=True)
    c = told["scale"] * torch.tensor(told["weights"])
    for name in base:
        expected = base[name] + torch.tensordot(c, tau[name], dims=1)
        torch.testing.assert_close(W[name], expected, atol=1e-6, rtol=1e-5)
    assert sum(told["weights"]) == pytest.approx(1)
    assert len(told["path"]) == QUICK.learned


# --- the claim ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def claim():
    return SYSTEM.claim(True, [0, 1])


def test_the_quick_claim_has_every_arm(claim):
    assert set(claim.scores) == {"mean", *TASKS}
    arms = {"base", "average", "scale", "position", "position_relative", "tuned"}
    arms |= {f"{task}_alone" for task in TASKS}
    arms |= {f"joint_{how}" for how in ("proportional", "uniform", "temperature")}
    for group, scores in claim.scores.items():
        assert set(scores) == arms, group
        assert all(len(found) == 2 and 0 <= min(found) <= max(found) <= 100
                   for found in scores.values())  # fmt: skip
    for arm in arms:
        means = np.mean([claim.scores[task][arm] for task in TASKS], 0)
        assert claim.scores["mean"][arm] == pytest.approx(means.tolist())


def test_what_decides_is_what_the_paper_says(claim):
    mean, last = claim.scores["mean"], claim.scores["valence"]
    deciding = [s for s in claim.statements if s.decides]
    assert [(s.least, s.margin) for s in deciding] == [(1, None), (3, None), (0, 0.5), (0, None)]
    pairs = [(mean, "joint_proportional"), (last, "joint_proportional"), (mean, "scale"),
             (mean, "joint_uniform")]  # fmt: skip
    for statement, (scores, arm) in zip(deciding, pairs, strict=True):
        expected = np.subtract(scores["position"], scores[arm])
        assert statement.differences == pytest.approx(expected.tolist())
    assert Claim.of(claim.to_json()) == claim


def test_the_best_scale_is_the_probes(claim):
    for part in claim.raw["merged"]:
        best = max(part["probe"], key=lambda x: part["probe"][x])
        if best == "1.0":
            assert part["scores"]["scale"] == part["scores"]["average"]
        assert max(part["positions"]["position"]["probe"]) >= part["probe"]["1.0"] - 1e-9


def test_a_seed_is_repeated_bit_for_bit(claim):
    setting.cache_clear()
    again = SYSTEM.run("merged", 1, True)
    assert again == claim.raw["merged"][1]


def test_the_notes_are_counted(claim):
    parts = claim.raw["joint_uniform"]
    found = np.concatenate([part["cosines"]["base"] for part in parts])
    assert f"{np.mean(found < 0):.0%} of {len(found)} cosines are negative" in claim.notes[0]
    groups = defaultdict(int)
    for note in claim.notes:
        groups[note.split(":")[0]] += 1
    assert groups["position"] == groups["position_relative"] == 1
