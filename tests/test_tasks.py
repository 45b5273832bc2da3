"""Tasks: reading any source, splitting, encoding labels; the same rows from every format."""

import gzip
import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from taskgrove.measuring import DEFAULT_METRIC as MEASURED
from taskgrove.tasks.cache import cache_folder
from taskgrove.tasks.content import fold, text_digests, value_digests
from taskgrove.tasks.images import decode, open_images
from taskgrove.tasks.inputs import Inputs
from taskgrove.tasks.raw import raw_from, slices
from taskgrove.tasks.readers import from_table, read
from taskgrove.tasks.schema import parse_tasks, read_tasks_file
from taskgrove.tasks.splits import digests, hash_split
from taskgrove.tasks.take import take
from taskgrove.tasks.task import DEFAULT_METRIC, Task
from taskgrove.tasks.task_set import TEST, TRAIN, VALIDATION, load_tasks
from taskgrove.tasks.vocabulary import natural

WORDS = ["river", "stone", "cloud", "amber", "fern", "lark", "maple", "north", "quiet", "drum"]
COLUMNS = {"text": "string", "label": "string", "price": "number", "tags": "labels"}


def sentence(n: int) -> str:
    """Different letters for every n."""
    return " ".join(WORDS[int(d)] for d in f"{n:03d}")


def rows_of(n: int = 200) -> list[dict]:
    """Rows with every kind of target; every seventh lacks its labels."""
    return [
        {
            "text": sentence(i),
            "label": None if i % 7 == 0 else "ab"[i % 2],
            "price": None if i % 7 == 0 else i / 4,
            "tags": None if i % 7 == 0 else ["x", "y"][: 1 + i % 2],
            "owner": f"owner {i // 3}",
        }
        for i in range(n)
    ]


def write(path: Path, rows: list[dict], joined: str = ";") -> Path:
    """The rows in the format that the name says."""
    name = path.name.removesuffix(".gz")
    cells = [{k: joined.join(v) if isinstance(v, list) else v for k, v in r.items()} for r in rows]
    if name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(rows), path)
        return path
    if name.endswith(".json"):
        text = json.dumps(rows)
    elif name.endswith("l"):
        text = "".join(json.dumps(row) + "\n" for row in rows)
    else:
        mark = "\t" if name.endswith("v") and ".tsv" in name else ","
        lines = [list(rows[0]), *(["" if v is None else str(v) for v in r.values()] for r in cells)]
        text = "".join(mark.join(line) + "\n" for line in lines)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def load(folder: Path, yaml: str, **arguments):
    """The task set of a tasks file in `folder`."""
    (folder / "tasks.yaml").write_text(yaml)
    return load_tasks(folder / "tasks.yaml", **arguments)


def picture(shade: int, size: tuple[int, int] = (5, 4), form: str = "PNG") -> bytes:
    """An image file of one colour."""
    sink = io.BytesIO()
    Image.new("RGB", size, (shade, 0, 255 - shade)).save(sink, form)
    return sink.getvalue()


# --- splits ------------------------------------------------------------------------------------


@given(st.lists(st.text(), max_size=40), st.randoms())
def test_hash_split_is_stable_under_permutation_and_company(keys, random):
    split = dict(zip(keys, hash_split(keys, 0.2, 0.3).tolist(), strict=True))
    shuffled = [*random.sample(keys, len(keys)), "another"]
    assert dict(zip(shuffled, hash_split(shuffled, 0.2, 0.3).tolist(), strict=True)) == split | {
        "another": int(hash_split(["another"], 0.2, 0.3)[0])
    }


def test_hash_split_is_the_same_on_every_machine():
    assert digests(["ann", b"bob"]).tolist() == [11957940740637538957, 10566683571197309812]
    assert hash_split(map(str, range(12)), 0.25, 0.25).tolist() == PINNED


PINNED = [1, 1, 1, 2, 0, 0, 1, 0, 0, 2, 0, 0]


def test_hash_split_keeps_its_fractions_and_larger_tests_hold_smaller_ones():
    keys = [str(n) for n in range(20_000)]
    shares = np.bincount(hash_split(keys, 0.1, 0.25)) / len(keys)
    assert np.allclose(shares, [0.65, 0.1, 0.25], atol=0.012)
    small, large = (hash_split(keys, 0.1, f) == TEST for f in (0.1, 0.2))
    assert large[small].all()


def test_folding_joins_near_duplicates_only():
    same = ["Pay 10 EUR now!", "pay  20 eur, NOW", "pay １０ ＥＵＲ now", "pay\teur\nnow"]
    assert set(fold(same)) == {"pay eur now"}
    other = ["12:30", "12:31", "", "été", "ete", "हिन्दी", "हनद", "now pay eur"]
    assert len(set(fold(other))) == 8
    column = pa.chunked_array([["Hello 1"], ["hello 2", "bye"]])
    a, b, c = text_digests([column])
    assert a == b != c


@given(st.lists(st.text(st.characters(max_codepoint=127), min_size=1)))
def test_ascii_and_other_texts_fold_alike(texts):
    letters = [text for text in texts if any(map(str.isalpha, text))]
    assert [text.removesuffix(" ж") for text in fold([t + " ж" for t in letters])] == fold(letters)


def test_numbers_and_categories_make_content():
    numbers = np.array([[0.1, np.nan], [np.float32(0.1), -np.nan], [0.1, 0.0]], np.float32)
    a, b, c = value_digests(numbers, [pa.chunked_array([["u", "u", "u"]])])
    assert a == b != c
    a, b = value_digests(np.array([[0.0], [-0.0]], np.float32), [])
    assert a == b


def test_a_key_holds_rows_together_in_all_tables(tmp_path):
    write(tmp_path / "a.csv", rows_of(150))
    write(tmp_path / "b.jsonl", rows_of(150)[::-1])
    tasks = load(
        tmp_path,
        "text: text\nkey: owner\ntarget: label\ntasks: {a: {data: a.csv}, b: {data: b.jsonl}}\n",
    )
    seen: dict[int, set] = {}
    for table in tasks.tables:
        for group, split in zip(table.groups.tolist(), table.split.tolist(), strict=True):
            seen.setdefault(group, set()).add(split)
    assert len(seen) == 50
    assert all(len(splits) == 1 for splits in seen.values())
    groups = tasks.key_groups("a", "test")
    assert len(groups) == len(tasks.rows("a", "test")) > len(set(groups.tolist()))


def test_given_splits_stay_and_the_missing_one_is_cut_from_train(tmp_path):
    rows = rows_of(300)
    write(tmp_path / "train.csv", rows[:240])
    write(tmp_path / "test.csv", rows[240:])
    tasks = load(
        tmp_path,
        "data: {train: train.csv, test: test.csv}\ntext: text\nsplit: {validation: 0.3}\n"
        "tasks: {label: }\n",
    )
    split = tasks.tables[0].split
    assert (split[240:] == TEST).all()
    assert set(split[:240].tolist()) == {TRAIN, VALIDATION}
    assert 0.2 < (split[:240] == VALIDATION).mean() < 0.4
    assert tasks.notes == []


def test_split_column_with_other_tools_names(tmp_path):
    names = ["Training", "dev", "test"]
    write(tmp_path / "a.csv", [r | {"part": names[i % 3]} for i, r in enumerate(rows_of())])
    tasks = load(tmp_path, "data: a.csv\ntext: text\nsplit: part\ntasks: {label: }\n")
    assert tasks.tables[0].split.tolist() == [i % 3 for i in range(200)]


def test_same_content_in_train_and_test_is_noted(tmp_path):
    rows = [r | {"part": ["train", "validation", "test"][i % 3]} for i, r in enumerate(rows_of())]
    rows[2]["text"] = rows[0]["text"].upper() + " 99"
    write(tmp_path / "a.csv", rows)
    tasks = load(tmp_path, "data: a.csv\ntext: text\nsplit: part\ntasks: {label: }\n")
    assert len(tasks.notes) == 1
    assert "a.csv: 1 of 66 test rows have the same content as a training row" in tasks.notes[0]


def test_a_small_task_gets_a_test_row_and_no_key_is_torn(tmp_path):
    tiny = [sentence(n) for n in range(900) if hash_split([sentence(n)], 0.15, 0.15)[0] == TRAIN]
    rows = [{"text": text, "label": "ab"[i % 2]} for i, text in enumerate(tiny[:40])]
    write(tmp_path / "tiny.csv", rows)
    more = [{"text": r["text"], "label": r["label"]} for r in rows_of()]
    write(tmp_path / "large.csv", rows + more)
    tasks = load(
        tmp_path,
        "text: text\ntarget: label\ntasks: {tiny: {data: tiny.csv}, large: {data: large.csv}}\n",
    )
    assert [len(tasks.rows("tiny", s)) for s in ("train", "validation", "test")] == [29, 5, 6]
    assert (tasks.tables[0].split == tasks.tables[1].split[:40]).all()
    assert any("tiny" in note and "by hash" in note for note in tasks.notes)


# --- sources -----------------------------------------------------------------------------------

FORMATS = ["a.csv", "a.csv.gz", "a.tsv", "a.parquet", "a.jsonl", "a.jsonl.gz", "a.json"]


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("limit", [0, 2**20])
def test_every_format_gives_the_same_task_set(tmp_path, name, limit):
    write(tmp_path / name, rows_of())
    tasks = load(
        tmp_path,
        f"data: {name}\ntext: text\nkey: owner\ntasks:\n  label: {{}}\n"
        "  price: {kind: number}\n  tags: {kind: labels}\n",
        limit=limit,
    )
    assert list(tasks.tasks) == ["label", "price", "tags"]
    assert len(tasks.tables) == 1
    label, price, tags = (tasks.target(name) for name in tasks.tasks)
    lacks = np.arange(200) % 7 == 0
    for task in tasks.tasks:
        assert (tasks.has(task) == ~lacks).all()
    assert (label == np.where(lacks, -1, np.arange(200) % 2)).all()
    assert np.array_equal(price, np.where(lacks, np.nan, np.arange(200) / 4), equal_nan=True)
    assert (tags == np.where(lacks, 0, [np.ones(200), np.arange(200) % 2]).T).all()
    assert label.dtype == np.int64
    assert price.dtype == np.float32
    assert tags.dtype == np.uint8
    assert tasks.tasks["label"].classes == ("a", "b")
    train = tasks.rows("price", "train")
    assert tasks.tasks["price"].center == pytest.approx(price[train].mean(), rel=1e-6)
    assert tasks.tasks["price"].scale == pytest.approx(price[train].std(), rel=1e-6)
    assert tasks.raw(0, np.array([5, 3, 5]))["text"] == [sentence(n) for n in (5, 3, 5)]
    assert tasks.fingerprint() == FINGERPRINTS.setdefault(0, tasks.fingerprint())


FINGERPRINTS: dict[int, str] = {}


def test_large_sources_are_memory_mapped_and_a_changed_file_is_read_again(tmp_path):
    path = write(tmp_path / "a.csv", rows_of(50))
    before = set(cache_folder().glob("rows-*"))
    rows = read("a.csv", {"text": "string"}, tmp_path, limit=0)
    assert rows.table.column("text").to_pylist() == [sentence(n) for n in range(50)]
    made = set(cache_folder().glob("rows-*")) - before
    assert len(made) == 1
    read("a.csv", {"text": "string"}, tmp_path, limit=0)
    assert set(cache_folder().glob("rows-*")) - before == made
    write(path, rows_of(60))
    assert read("a.csv", {"text": "string"}, tmp_path, limit=0).table.num_rows == 60
    assert not list(cache_folder().glob(".*"))


def test_only_the_wanted_columns_are_held(tmp_path):
    write(tmp_path / "a.parquet", rows_of())
    rows = read("a.parquet", {"price": "number", "label": "string"}, tmp_path)
    assert rows.table.schema == pa.schema({"price": pa.float64(), "label": pa.string()})


def test_hive_folder(tmp_path):
    for country in ("fr", "de"):
        (tmp_path / "data" / f"country={country}").mkdir(parents=True)
        write(tmp_path / "data" / f"country={country}" / "part-0.parquet", rows_of(20))
    rows = read("data", {"country": "string", "text": "string"}, tmp_path)
    assert rows.table.column("country").to_pylist() == ["de"] * 20 + ["fr"] * 20


@pytest.mark.parametrize("form", ["saved", "hub"])
def test_hugging_face_folders_keep_splits_and_name_classes(tmp_path, form):
    from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

    features = Features({"text": Value("string"), "label": ClassLabel(names=["no", "yes"])})
    parts = DatasetDict()
    for start, split in enumerate(("train", "validation", "test", "extra")):
        texts = [sentence(100 * start + n) for n in range(20)]
        labels = [n % 2 if n else -1 for n in range(20)]
        parts[split] = Dataset.from_dict({"text": texts, "label": labels}, features=features)
    if form == "saved":
        parts.save_to_disk(tmp_path / "set")
    else:
        (tmp_path / "set" / "data").mkdir(parents=True)
        del parts["extra"]
        for split, part in parts.items():
            part.to_parquet(tmp_path / "set" / "data" / f"{split}-00000-of-00001.parquet")
    tasks = load(tmp_path, "data: set\ntext: text\ntasks: {label: }\n")
    assert tasks.tasks["label"].classes == ("no", "yes")
    assert [len(tasks.rows("label", s)) for s in ("train", "validation", "test")] == [19] * 3
    assert tasks.target("label")[:4].tolist() == [-1, 1, 0, 1]
    assert [("extra" in note) for note in tasks.notes] == ([True] if form == "saved" else [])


def test_a_parquet_file_with_noted_class_names(tmp_path):
    from datasets import ClassLabel, Dataset, Features, Value

    features = Features({"text": Value("string"), "label": ClassLabel(names=["no", "yes"])})
    rows = {"text": ["a", "b"], "label": [1, 0]}
    Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "a.parquet")
    rows = read("a.parquet", {"label": "string"}, tmp_path)
    assert rows.table.column("label").to_pylist() == ["yes", "no"]


def test_csv_details(tmp_path):
    text = '\ufeffa;b;c\n"x;\n1";NA; 1,5 \n\n y ;;NA\n'
    (tmp_path / "a.csv").write_text(text, "utf-8")
    rows = read("a.csv", {"a": "string", "b": "string"}, tmp_path)
    assert rows.table.to_pydict() == {"a": ["x;\n1", " y "], "b": ["NA", ""]}
    (tmp_path / "b.csv").write_text("n\n1e3\nNA\n\n-2\n")
    assert read("b.csv", {"n": "number"}, tmp_path).table.column("n").to_pylist() == [1e3, None, -2]


def test_classes_from_numbers_booleans_and_padded_text(tmp_path):
    cells = {"whole": [1.0, 2.0, None], "flag": [True, False, None], "word": [" a", "a ", " "]}
    table = pa.table(cells | {"text": ["u", "v", "w"]})
    pq.write_table(table, tmp_path / "a.parquet")
    rows = read("a.parquet", dict.fromkeys(cells, "string"), tmp_path).table
    assert rows.column("whole").to_pylist() == ["1", "2", None]
    assert rows.column("flag").to_pylist() == ["true", "false", None]


def test_one_column_as_classes_and_as_a_number(tmp_path):
    rows = [{"text": sentence(i), "stars": str(1 + i % 5)} for i in range(200)]
    write(tmp_path / "a.csv", rows)
    tasks = load(
        tmp_path,
        "data: a.csv\ntext: text\ntarget: stars\ntasks: {kind: {}, amount: {kind: number}}\n",
    )
    assert tasks.tasks["kind"].classes == ("1", "2", "3", "4", "5")
    assert (tasks.target("amount") == tasks.target("kind") + 1).all()


def test_no_label_and_a_missing_label_differ(tmp_path):
    tags = [None, [], ["x"], ["x", "y"]]
    rows = [{"text": sentence(i), "tags": tags[i % 4]} for i in range(200)]
    write(tmp_path / "a.jsonl", rows)
    tasks = load(tmp_path, "data: a.jsonl\ntext: text\ntasks: {tags: {kind: labels}}\n")
    assert (tasks.has("tags") == (np.arange(200) % 4 > 0)).all()
    assert tasks.target("tags")[:4].tolist() == [[0, 0], [0, 0], [1, 0], [1, 1]]


def test_a_rare_label_is_dropped_on_demand_and_told(tmp_path):
    rows = rows_of()
    rows[1]["label"] = "once"
    write(tmp_path / "a.csv", rows)
    tasks = load(tmp_path, "data: a.csv\ntext: text\non_rare: drop\ntasks: {label: }\n")
    assert tasks.tasks["label"].classes == ("a", "b")
    assert tasks.target("label")[1] == -1
    assert "1 of 3 labels dropped" in tasks.notes[0]


def test_a_separator_that_cuts_nothing_is_noted(tmp_path):
    write(tmp_path / "a.csv", rows_of(), joined="/")
    yaml = "data: a.csv\ntext: text\ntasks: {tags: {kind: labels}}\n"
    assert 'is the separator ";" right?' in load(tmp_path, yaml).notes[0]


def test_natural_order():
    names = ["10", "9", "-1", "2.5", "b10", "b9", "a", "²", "1e3", "nan"]
    ordered = ["-1", "2.5", "9", "10", "1e3", "a", "b9", "b10", "nan", "²"]
    assert sorted(names, key=natural) == ordered


# --- rows ---------------------------------------------------------------------------------------


@given(st.lists(st.lists(st.text(max_size=3), max_size=4), min_size=1, max_size=5), st.data())
def test_take_equals_the_slow_take(chunks, data):
    column = pa.chunked_array(chunks, pa.string())
    table = pa.table({"a": column, "n": pa.chunked_array([range(len(column))], pa.int64())})
    place = st.integers(0, len(column) - 1)
    rows = data.draw(st.lists(place, max_size=9)) if len(column) else []
    values = table.to_pydict()
    slow = {name: [values[name][row] for row in rows] for name in values}
    assert take(table, np.array(rows, np.int64)).to_pydict() == slow


def test_take_refuses_rows_that_are_not_there():
    with pytest.raises(IndexError):
        take(pa.table({"a": [1]}), np.array([1]))


@given(
    st.fixed_dictionaries(
        {
            "name": st.text(min_size=1),
            "table": st.integers(0, 9),
            "target": st.text(),
            "kind": st.sampled_from(["classes", "labels", "number"]),
            "classes": st.lists(st.text()).map(tuple),
            "center": st.floats(allow_nan=False),
            "scale": st.floats(allow_nan=False),
            "metric": st.text(),
            "weight": st.floats(allow_nan=False),
        }
    )
)
def test_a_task_survives_json(facts):
    task = Task(**facts)
    assert Task.from_json(json.loads(json.dumps(task.to_json()))) == task


def test_default_metrics_are_those_of_measuring():
    assert DEFAULT_METRIC == MEASURED


@given(st.lists(st.text()), st.none() | st.text(), st.lists(st.text()), st.integers(8, 64))
def test_inputs_survive_json(text, image, numbers, size):
    inputs = Inputs(tuple(text), image, tuple(numbers), (), size)
    assert Inputs.from_json(json.loads(json.dumps(inputs.to_json()))) == inputs


def test_raw_rows_of_a_table_and_of_new_rows_agree(tmp_path):
    rows = [
        {
            "title": None if i == 5 else f"title {i}",
            "body": sentence(i),
            "price": None if i == 6 else i / 8,
            "country": "" if i == 7 else "fr",
            "label": "ab"[i % 2],
        }
        for i in range(60)
    ]
    write(tmp_path / "a.csv", rows)
    yaml = (
        "data: a.csv\ntext: [title, body]\nnumbers: price\ncategories: [country]\n"
        "tasks: {label: }\n"
    )
    tasks = load(tmp_path, yaml)
    inputs = tasks.tables[0].inputs
    assert inputs.modalities == {"text", "table"}
    known = tasks.raw(0, np.arange(4, 9))
    new = raw_from(slices(read("a.csv", inputs.columns, tmp_path), 4)[1], inputs)
    assert known["text"][:2] == ["title 4\n" + sentence(4), "\n" + sentence(5)]
    assert known["categories"] == [["fr", "fr", "fr", None, "fr"]]
    assert new["text"] == known["text"][:4]
    assert new["categories"] == [known["categories"][0][:4]]
    assert new["numbers"].shape == (4, 1)
    assert new["numbers"].isnan().tolist() == [[False], [False], [True], [False]]
    assert np.array_equal(new["numbers"], known["numbers"][:4], equal_nan=True)


def test_many_tasks_in_one_wide_table(tmp_path):
    columns = {f"c{n}": [(i + n) % 2 for i in range(50)] for n in range(1000)}
    pq.write_table(
        pa.table({"text": [sentence(i) for i in range(50)], **columns}), tmp_path / "a.parquet"
    )
    yaml = "data: a.parquet\ntext: text\ntasks:\n" + "".join(f"  c{n}:\n" for n in range(1000))
    tasks = load(tmp_path, yaml)
    assert len(tasks.tasks) == 1000
    assert len(tasks.tables) == 1
    assert tasks.target("c999")[:3].tolist() == [1, 0, 1]


def test_half_characters_in_json_and_quotes_in_csv(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"t": "a\\ud800b"}\n{"t": "\\ud83d\\ude00"}\n')
    assert read("a.jsonl", {"t": "string"}, tmp_path).table.column("t").to_pylist() == ["a?b", "😀"]
    (tmp_path / "a.csv").write_text('t,u\n"say ""yes"", please",1\r\n"two\nlines",2\n')
    texts = read("a.csv", {"t": "string"}, tmp_path).table.column("t").to_pylist()
    assert texts == ['say "yes", please', "two\nlines"]


def test_numbers_beyond_the_limit_lie_in_a_file(tmp_path):
    rows = [{"a": i / 4, "b": -i, "label": "xy"[i % 2]} for i in range(80)]
    write(tmp_path / "a.csv", rows)
    yaml = "data: a.csv\nnumbers: [a, b]\ntasks: {label: }\n"
    small, large = load(tmp_path, yaml), load(tmp_path, yaml, limit=0)
    assert isinstance(large.tables[0].numbers, np.memmap)
    assert (small.tables[0].numbers == large.tables[0].numbers).all()
    assert small.fingerprint() == large.fingerprint()


def test_the_fingerprint_follows_the_data(tmp_path):
    def fingerprint(**change):
        rows = rows_of(60)
        rows[5].update(change)
        write(tmp_path / "a.csv", rows)
        return load(tmp_path, "data: a.csv\ntext: text\ntasks: {label: }\n").fingerprint()

    same = fingerprint()
    assert same == fingerprint()
    assert same != fingerprint(label="a")
    assert same != fingerprint(text="other words")
    assert same != fingerprint(label=None)


# --- images -------------------------------------------------------------------------------------


def test_image_folder_with_default_input_and_target(tmp_path):
    for n in range(40):
        place = tmp_path / "photos" / ("warm" if n % 2 else "cold") / "deeper"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{n}.png").write_bytes(picture(n))
    calls = []
    tasks = load(
        tmp_path,
        "data: photos\nimage_size: 8\ntasks: {tone: }\n",
        progress=lambda *facts: calls.append(facts),
    )
    assert tasks.tasks["tone"].classes == ("cold", "warm")
    raw = tasks.raw(0, np.array([1, 0]))["image"]
    assert raw.shape == (2, 8, 8, 3)
    assert calls[-1][1:] == (40, 40)


def test_image_folder_with_split_folders(tmp_path):
    for n in range(12):
        place = tmp_path / "photos" / ("train", "val", "test")[n % 3] / "ab"[n // 3 % 2]
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{n}.png").write_bytes(picture(10 * n))
    tasks = load(tmp_path, "data: photos\ntasks: {tone: }\n")
    assert [len(tasks.rows("tone", s)) for s in ("train", "validation", "test")] == [4, 4, 4]


@pytest.mark.parametrize("form", ["path", "bytes", "struct"])
@pytest.mark.parametrize("limit", [0, 2**28])
def test_images_by_path_and_by_bytes(tmp_path, form, limit):
    pictures = [picture(4 * n) for n in range(60)]
    (tmp_path / "files").mkdir()
    for n, content in enumerate(pictures):
        (tmp_path / "files" / f"{n}.png").write_bytes(content)
    cells = {
        "path": [f"files/{n}.png" for n in range(60)],
        "bytes": pictures,
        "struct": [{"bytes": content, "path": None} for content in pictures],
    }[form]
    rows = pa.table({"photo": cells, "label": ["ab"[n % 2] for n in range(60)]})
    pq.write_table(rows, tmp_path / "a.parquet")
    tasks = load(tmp_path, "data: a.parquet\nimage: photo\ntasks: {label: }\n", limit=limit)
    images = tasks.raw(0, np.array([59, 0]))["image"].numpy()
    assert (images[:, 3, 7] == [[236, 0, 19], [0, 0, 255]]).all()
    inputs = tasks.tables[0].inputs
    new = raw_from(from_table(rows, inputs.columns, folder=tmp_path), inputs)
    assert (new["image"][[59, 0]].numpy() == images).all()
    splits = [tasks.rows("label", s).tolist() for s in ("train", "test")]
    assert splits == SPLITS_BY_BYTES.setdefault(0, splits)


SPLITS_BY_BYTES: dict[int, list] = {}


def test_unreadable_images_are_left_out_on_demand(tmp_path):
    cells = [b"no picture" if n == 3 else picture(4 * n) for n in range(60)]
    cells[7] = picture(1)[:40]
    rows = pa.table({"photo": cells, "label": ["ab"[n % 2] for n in range(60)]})
    pq.write_table(rows, tmp_path / "a.parquet")
    yaml = "data: a.parquet\nimage: photo\non_unreadable: skip\ntasks: {label: }\n"
    for limit in (2**28, 0, 0):  # in memory, into the cache, from the cache
        tasks = load(tmp_path, yaml, limit=limit)
        used = np.concatenate([tasks.rows("label", s) for s in ("train", "validation", "test")])
        assert set(range(60)) - set(used.tolist()) == {3, 7}
        assert not tasks.has("label")[[3, 7]].any()
        assert "2 rows left out" in tasks.notes[0]


def test_kinds_of_pictures():
    def saved(image, form="PNG", **options):
        sink = io.BytesIO()
        image.save(sink, form, **options)
        return decode(sink.getvalue(), 8)

    clear = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    assert (saved(clear) == 255).all()
    assert (saved(Image.new("L", (3, 9), 77)) == 77).all()
    assert (saved(Image.new("LA", (8, 8), (0, 0))) == 255).all()
    assert (saved(Image.new("1", (8, 8), 1)) == 255).all()
    deep = Image.fromarray(np.full((8, 8), 65535 // 2, np.uint16))
    assert (saved(deep) == 127).all()
    palette = Image.new("P", (8, 8), 0)
    palette.putpalette([10, 20, 30] * 256)
    assert (saved(palette) == [10, 20, 30]).all()
    assert (saved(palette, transparency=0) == 255).all()
    turned = Image.new("RGB", (8, 8))
    turned.paste((255, 255, 255), (0, 0, 8, 4))
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    assert saved(turned, exif=exif)[:4].max() == 0
    assert saved(Image.new("CMYK", (600, 400)), "JPEG").min() > 250


def test_the_image_cache_is_used_again():
    cells = [picture(n) for n in range(30)]
    rows = from_table(pa.table({"photo": cells}), {"photo": "image"})
    first, digest, _ = open_images(rows, "photo", 8, limit=0)
    again, same, _ = open_images(rows, "photo", 8, limit=0)
    assert isinstance(again, np.memmap)
    assert (first == again).all()
    assert (digest == same).all()


# --- the tasks file -------------------------------------------------------------------------------


def test_defaults_stand_at_top_and_null_undoes_them():
    file = parse_tasks(
        "data: a.csv\ntext: body\nkey: customer\nkind: number\nweight: 2\n"
        "mixture: {temperature: 2}\n"
        "tasks:\n  a: {target: x}\n  b: {key: null, weight: null, kind: classes, text: [s, t]}\n"
        "  2020: {target: 2021}\n",
        "tasks.yaml",
        Path("somewhere"),
    )
    a, b, year = file.tasks.values()
    assert (a.key, a.kind, a.weight, a.text) == ("customer", "number", 2, ["body"])
    assert (b.key, b.kind, b.weight, b.text) == (None, "classes", 1, ["s", "t"])
    assert year.target == "2021"
    assert list(file.tasks) == ["a", "b", "2020"]
    assert file.mixture == {"temperature": 2}
    assert file.folder == Path("somewhere")


def test_a_task_set_is_called_like_its_file_or_folder(tmp_path):
    (tmp_path / "pets").mkdir()
    for path in ("pets/tasks.yaml", "pets/cats.yaml"):
        (tmp_path / path).write_text("data: a.csv\ntasks: {a: {target: x}}\n")
    assert read_tasks_file(tmp_path / "pets" / "tasks.yaml").name == "pets"
    assert read_tasks_file(tmp_path / "pets" / "cats.yaml").name == "cats"


@settings(max_examples=20)
@given(st.permutations(range(60)))
def test_the_order_of_rows_does_not_change_the_split(order):
    import tempfile

    rows = rows_of(60)
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder) / "a.jsonl", [rows[n] for n in order])
        tasks = load(Path(folder), "data: a.jsonl\ntext: text\ntasks: {label: }\n")
    found = {order[n] for n in tasks.rows("label", "test").tolist()}
    assert found == TESTED.setdefault(0, found)


TESTED: dict[int, set] = {}
