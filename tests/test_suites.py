"""The suites: shipped pictures are sound, yeast converts, debtags reads an index without a net."""

import hashlib
import io
import os
import stat
from collections import Counter, defaultdict
from importlib.util import find_spec
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from taskgrove.errors import TaskgroveError
from taskgrove.suites import SUITES, cache, debian_index, debtags, locate, yeast
from taskgrove.tasks.task_set import load_tasks

PICTURES = locate("pictures").parent
EMOJI = ("twemoji", "noto", "fluent", "emojione")
IMAGE_TASKS = ("digits", *EMOJI, "clipart")
SPLITS = {"train", "validation", "test"}


@pytest.fixture(scope="module")
def pictures():
    return {name: pq.read_table(PICTURES / f"{name}.parquet").to_pylist() for name in IMAGE_TASKS}


def test_table_of_suites():
    assert list(SUITES) == [suite.name for suite in SUITES.values()]
    for suite in SUITES.values():
        assert suite.description.endswith(".")


def test_unknown_suite_asks_back():
    with pytest.raises(TaskgroveError, match=r'no suite "picture".*Did you mean "pictures"\?'):
        locate("picture")


# --- pictures ------------------------------------------------------------------------------------


def test_pictures_are_six_tasks_under_five_megabytes():
    tasks = yaml.safe_load((PICTURES / "tasks.yaml").read_text("utf8"))
    named = {spec["data"] for spec in tasks["tasks"].values()}
    files = {path.name for path in PICTURES.glob("*.parquet")}
    assert named == files
    assert len(named) == 6
    assert sum(path.stat().st_size for path in PICTURES.iterdir()) <= 5_000_000


@pytest.mark.parametrize("task", IMAGE_TASKS)
def test_every_picture_decodes(pictures, task):
    for row in pictures[task]:
        with Image.open(io.BytesIO(row["image"])) as image:
            image.load()
            assert (image.size, image.mode) == ((28, 28), "RGB"), row["name"]


@pytest.mark.parametrize("task", IMAGE_TASKS)
def test_no_picture_or_name_comes_twice(pictures, task):
    for column in ("image", "name"):
        values = [row[column] for row in pictures[task]]
        assert len(set(values)) == len(values)


@pytest.mark.parametrize("task", IMAGE_TASKS)
def test_every_class_is_in_every_split(pictures, task):
    rows = Counter((row["label"], row["split"]) for row in pictures[task])
    labels = {label for label, _ in rows}
    assert set(rows) == {(label, split) for label in labels for split in SPLITS}
    assert min(rows.values()) >= 5


def test_no_drawing_or_emoji_name_crosses_splits(pictures):
    for tasks in (*[[task] for task in IMAGE_TASKS], EMOJI):
        for column in ("drawing", "name"):
            splits = defaultdict(set)
            for row in (row for task in tasks for row in pictures[task]):
                splits[row[column]].add(row["split"])
            assert {key: found for key, found in splits.items() if len(found) > 1} == {}


def test_shares_of_the_splits(pictures):
    for task, rows in pictures.items():
        train = sum(row["split"] == "train" for row in rows) / len(rows)
        test = sum(row["split"] == "test" for row in rows) / len(rows)
        assert 0.6 < train < 0.7, task
        assert 0.15 < test < 0.25, task


def test_skin_tones_are_left_out(pictures):
    assert [r["name"] for t in EMOJI for r in pictures[t] if "skin-tone" in r["name"]] == []


def test_credit_lies_beside_the_pictures():
    notice = (PICTURES / "NOTICE").read_text("utf8")
    for task in IMAGE_TASKS:
        assert f"{task}.parquet" in notice


def test_pictures_load_without_notes():
    loaded = load_tasks(locate("pictures"))
    assert list(loaded.tasks) == list(IMAGE_TASKS)
    assert loaded.notes == []


# --- cache ---------------------------------------------------------------------------------------


def test_a_broken_build_leaves_nothing(tmp_path):
    def broken(aside):
        (aside / "tasks.yaml").write_text("half")
        raise TaskgroveError("no data")

    with pytest.raises(TaskgroveError, match="no data"):
        cache.fill(tmp_path / "suite", broken)
    assert list(tmp_path.iterdir()) == []


def test_of_two_builds_at_once_the_first_stays(tmp_path):
    folder = tmp_path / "suite"

    def late(aside):
        cache.fill(folder, lambda first: (first / "tasks.yaml").write_text("first"))
        (aside / "tasks.yaml").write_text("late")

    assert cache.fill(folder, late).read_text() == "first"
    assert list(tmp_path.iterdir()) == [folder]


def test_a_cache_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(TaskgroveError, match="TASKGROVE_CACHE"):
        cache.fill(tmp_path / "file" / "suite", lambda _: None)


# --- yeast ---------------------------------------------------------------------------------------


def has_yeast():
    spec = find_spec("river")
    places = (spec.submodule_search_locations or []) if spec else []
    return any((Path(place) / "datasets" / "yeast.csv.gz").exists() for place in places)


@pytest.mark.skipif(not has_yeast(), reason="river is not installed")
def test_yeast_has_fourteen_tasks_over_one_table(tmp_path):
    loaded = load_tasks(yeast.build(tmp_path / "yeast"))
    assert len(loaded.tasks) == 14
    assert len(loaded.tables) == 1
    for name, task in loaded.tasks.items():
        assert task.metric == "average_precision"
        assert task.classes == ("no", "yes")
        for split in SPLITS:
            assert loaded.target(name)[loaded.rows(name, split)].sum() >= 5
    table = pq.read_table(tmp_path / "yeast" / "yeast.parquet")
    assert table.num_rows == 2417
    assert table.schema.field("Att103").type == pa.float32()


@pytest.mark.parametrize("there", [False, True])
def test_yeast_without_its_table(monkeypatch, tmp_path, there):
    if there:
        (tmp_path / "river").mkdir()
        (tmp_path / "river" / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    monkeypatch.delitem(__import__("sys").modules, "river", raising=False)
    with pytest.raises(TaskgroveError, match=r'pip install "taskgrove\[yeast\]"'):
        yeast.build(tmp_path / "cache" / "yeast")


# --- debtags -------------------------------------------------------------------------------------

PACKAGES = """\
Package: gcc-alpha
Source: gcc (12.2-1)
Section: devel
Description: GNU C compiler 12
Description-md5: 1
Tag: role::program, devel::compiler,
 implemented-in::{c,c++}, works-with::text

Package: gcc-beta
Source: gcc
Section: non-free/devel
Description: gnu c-compiler, 13!
Tag: role::program

Package: café
Section: games
Description: Kaffee für Żółw
Tag: role::program, use::gameplaying,

Package: libplain
Section: libs
Description: a library
 The long text.
 .
 Second part.
Tag: role::shared-lib

Package: silent
Section: libs
Description: no tags here

Package: broken
"""
TRANSLATION = """\
Package: gcc-alpha
Description-md5: 1
Description-en: GNU C compiler 12
 This is the compiler.
 .
 It compiles.

Package: gone
Description-en: not in the index
"""


@pytest.fixture
def index(tmp_path):
    for name, text in {"Packages": PACKAGES, "Translation-en": TRANSLATION}.items():
        (tmp_path / name).write_text(text, encoding="utf8")
    return debian_index.read_index([tmp_path / "Packages"], [tmp_path / "Translation-en"])


def test_index_is_read(index):
    assert list(index) == ["gcc-alpha", "gcc-beta", "café", "libplain", "silent"]
    alpha = index["gcc-alpha"]
    assert (alpha.source, alpha.section) == ("gcc", "devel")
    assert alpha.tags == {
        "role": {"program"},
        "devel": {"compiler"},
        "implemented-in": {"c", "c++"},
        "works-with": {"text"},
    }
    assert debtags.text_of(alpha) == "GNU C compiler 12\nThis is the compiler. It compiles."
    assert index["gcc-beta"].section == "devel"
    assert index["café"].synopsis == "Kaffee für Żółw"
    assert debtags.text_of(index["libplain"]) == "a library\nThe long text. Second part."
    assert index["silent"].tags == {}


def test_a_label_is_the_only_value(index):
    alpha = index["gcc-alpha"]
    assert debtags.label_of(alpha, "role") == "program"
    assert debtags.label_of(alpha, "implemented-in") is None  # two values
    assert debtags.label_of(alpha, "use") is None  # no value
    assert debtags.label_of(index["libplain"], "section") == "libs"


def test_alike_synopses_are_kept_once_and_tagged_packages_first(index):
    kept = debtags.choose(index, 10)
    assert len(set(kept) & {"gcc-alpha", "gcc-beta"}) == 1
    assert set(kept) - {"gcc-alpha", "gcc-beta"} == {"café", "libplain", "silent"}
    assert "silent" not in debtags.choose(index, 3)


def test_long_texts_are_cut_at_a_blank():
    package = debian_index.Package("s", "libs", "short", "word " * 300)
    text = debtags.text_of(package)
    assert 590 < len(text) <= debtags.MOST_LETTERS
    assert text.endswith("word")
    assert (
        len(debtags.text_of(debian_index.Package("s", "libs", "x" * 900))) == debtags.MOST_LETTERS
    )


def test_rare_classes_are_left_out_and_classes_are_few():
    def packages(counts):
        return [
            debian_index.Package("s", section, "text", tags={"role": {section}})
            for section, count in counts.items()
            for _ in range(count)
        ]

    labels = debtags.labels_of(packages({"a": 60, "b": 59, "c": 61}), "role")
    assert Counter(labels) == {"a": 60, None: 59, "c": 61}
    many = packages({f"class {i}": 60 + i for i in range(40)})
    assert len(set(debtags.labels_of(many, "role")) - {None}) == 12
    assert len(set(debtags.labels_of(many, "section")) - {None}) == 30


def made_up_index(rows=400):
    kinds = [("libs", "shared-lib"), ("games", "program"), ("doc", "documentation")]
    stanzas = []
    for i in range(rows):
        word = (
            hashlib.sha256(str(i).encode())
            .hexdigest()
            .translate({48 + d: 103 + d for d in range(10)})
        )
        section, role = kinds[i % 3]
        tag = f"Tag: role::{role}\n" if i % 4 else ""
        stanzas.append(f"Package: p{i}\nSection: {section}\nDescription: {word}\n{tag}")
    return "\n".join(stanzas)


def put_apt(folder, monkeypatch, update, listing):
    """Stand-ins for apt-get and apt-config; nothing else is on the PATH."""
    folder.mkdir()
    scripts = {
        "apt-get": f'if [ "$1" = update ]; then {update}\nelse {listing}\nfi',
        "apt-config": "echo 'Acquire::http::Proxy \"made-up\";'",
    }
    for name, body in scripts.items():
        (folder / name).write_text(f"#!/bin/sh\n{body}\n")
        (folder / name).chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", str(folder))


@pytest.mark.skipif(os.name == "nt", reason="the stand-in for apt is a shell script")
def test_debtags_are_built_from_what_apt_fetches(tmp_path, monkeypatch):
    (tmp_path / "index").write_text(made_up_index(), encoding="utf8")
    update = f'read line < "$APT_CONFIG"; echo "$line" > {tmp_path}/seen'
    put_apt(tmp_path / "bin", monkeypatch, update, f"printf 'Packages\\t{tmp_path}/index\\n'")
    said = []
    loaded = load_tasks(debtags.build(tmp_path / "debtags", said.append))
    assert (tmp_path / "seen").read_text().startswith("Dir::State::lists ")
    assert len(said) == 2
    assert list(loaded.tasks) == ["section", "role"]  # the other facets have no class
    assert loaded.tasks["role"].classes == ("documentation", "program", "shared-lib")
    assert int(loaded.has("role").sum()) == 300
    assert int(loaded.has("section").sum()) == 400


def test_debtags_where_apt_fetches_nothing(tmp_path, monkeypatch):
    put_apt(tmp_path / "bin", monkeypatch, "echo 'W: Failed to fetch it'", "true")
    with pytest.raises(TaskgroveError, match=r"fetched no package index .W: Failed to fetch it"):
        debtags.build(tmp_path / "debtags")
    assert not (tmp_path / "debtags").exists()


def test_debtags_where_the_index_has_no_tags(tmp_path, monkeypatch):
    (tmp_path / "index").write_text("Package: a\nSection: libs\nDescription: b\n")
    put_apt(tmp_path / "bin", monkeypatch, "true", f"printf 'Packages\\t{tmp_path}/index\\n'")
    with pytest.raises(TaskgroveError, match="no debtags among its 1 packages"):
        debtags.build(tmp_path / "debtags")


def test_debtags_without_apt(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(TaskgroveError, match=r"no apt-get on this machine, expected Debian"):
        debtags.build(tmp_path / "debtags")
