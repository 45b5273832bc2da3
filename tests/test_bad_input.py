"""What a user reads after a mistake: one sentence with got, expected and how to fix it."""

import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from taskgrove.errors import TaskgroveError
from taskgrove.tasks.init import propose
from taskgrove.tasks.inputs import Inputs
from taskgrove.tasks.raw import raw_from, slices
from taskgrove.tasks.readers import from_table, read
from taskgrove.tasks.splits import hash_split
from taskgrove.tasks.targets import numbers_of
from taskgrove.tasks.task_set import load_tasks

LETTERS = "abcdefghij"
GOOD = "data: a.csv\ntext: text\ntasks: {label: }\n"


def text(n):
    """Different letters for every n."""
    return "".join(LETTERS[int(d)] for d in f"{n:03d}")


def csv(folder, name="a.csv", rows=100, header="text,label", **columns):
    """A file of `rows` rows; a column is a function of the row's number."""
    columns = {"text": text, "label": lambda n: "xy"[n % 2], **columns}
    header = list(dict.fromkeys([*header.split(","), *columns]))
    lines = [",".join(header)]
    lines += [",".join(str(columns[name](n)) for name in header) for n in range(rows)]
    (folder / name).write_text("\n".join(lines) + "\n")


def told(folder, yaml, **arguments):
    """The sentence that a tasks file earns."""
    (folder / "tasks.yaml").write_text(yaml)
    with pytest.raises(TaskgroveError) as caught:
        load_tasks(folder / "tasks.yaml", **arguments)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert "Traceback" not in sentence
    return sentence


# --- the tasks file ----------------------------------------------------------------------------

YAML = {
    "": "tasks.yaml is empty; `taskgrove init FILE` writes an example",
    "# only a comment\n": "tasks.yaml is empty; `taskgrove init FILE` writes an example",
    "- a\n- b\n": "tasks.yaml must be a mapping (tasks: ...), not a list",
    "just words\n": "tasks.yaml must be a mapping (tasks: ...), not a piece of text",
    "data: a.csv\n": 'tasks.yaml names no task: give at least one under "tasks"',
    "data: a.csv\ntasks:\n": 'tasks.yaml names no task: give at least one under "tasks"',
    "data: a.csv\ntask: {a: {target: b}}\n": 'Did you mean "tasks"?',
    "data: a.csv\ntasks: [a, b]\n": '"tasks" must be a mapping (a name, then its target), not a',
    "data: a.csv\ntasks: {a: label}\n": 'task "a" must be a mapping such as {target: column}',
    "data: a.csv\ntasks: {yes: {target: b}}\n": '"tasks" has the name True, which YAML does',
    "tasks: {a: {target: b}}\n": 'task "a" has no "data": name the file with the rows',
    "data: a.csv\ntasks: {a: {taget: b}}\n": (
        'tasks.yaml: task "a" has an unknown key "taget". Did you mean "target"?'
    ),
    "data: a.csv\ntextt: b\ntasks: {a: }\n": (
        'tasks.yaml: the top level has an unknown key "textt". Did you mean "text"?'
    ),
    "data: a.csv\nbackbon: b\ntasks: {a: }\n": 'Did you mean "backbone"?',
    "data: a.csv\ntasks: {a: {backbone: mlp}}\n": 'task "a" has an unknown key "backbone". It',
    "data: a.csv\ntasks: {a: {kind: numbr}}\n": (
        'task "a" has kind: \'numbr\', but "kind" must be "classes", "labels", "number", '
    ),
    "data: a.csv\nkind: numbr\ntasks: {a: }\n": "the top level has kind: 'numbr'",
    "data: a.csv\ntasks: {a: {weight: 0}}\n": '"weight" must be a number above 0',
    "data: a.csv\ntasks: {a: {weight: much}}\n": '"weight" must be a number',
    "data: a.csv\nimage_size: 4\ntasks: {a: }\n": '"image_size" must be a number at least 8',
    "data: {trian: a.csv}\ntasks: {a: }\n": "a path, or paths such as {train: a.csv, test: b.csv}",
    "data: a.csv\nsplit: {tests: 0.1}\ntasks: {a: }\n": 'key "split.tests". Did you mean "test"?',
    "data: a.csv\nsplit: {test: 1.5}\ntasks: {a: }\n": '"split.test" must be a number',
    "data: a.csv\nsplit: {test: 0.5, validation: 0.5}\ntasks: {a: }\n": "no rows to train on",
    "data: a.csv\nsplit: 0.2\ntasks: {a: }\n": '"split" must be fractions such as {valid',
    "data: a.csv\ntext: {a: b}\ntasks: {a: }\n": "must be a column's name, or a list",
    "data: a.csv\ntasks:\n  a: {target: b}\n  a: {target: c}\n": (
        'tasks.yaml: "a" is written twice (lines 3 and 4)'
    ),
    "data: a.csv\ntasks: {a: [}\n": "tasks.yaml is not valid YAML at line 2, column 13",
    "data: a.csv\n\ttasks: {}\n": "tasks.yaml is not valid YAML at line 2",
    "data: a.csv\nmixture: [1]\ntasks: {a: }\n": "uniform, proportional, or a mapping of",
}


@pytest.mark.parametrize("yaml", YAML)
def test_mistakes_in_the_tasks_file(tmp_path, yaml):
    csv(tmp_path)
    assert YAML[yaml] in told(tmp_path, yaml)


def test_no_tasks_file(tmp_path):
    with pytest.raises(TaskgroveError, match=r"tasks.yaml does not exist; `taskgrove init FILE`"):
        load_tasks(tmp_path / "tasks.yaml")
    (tmp_path / "tasks.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(TaskgroveError, match="cannot be read as a UTF-8 text file"):
        load_tasks(tmp_path / "tasks.yaml")
    with pytest.raises(TaskgroveError, match="cannot be read"):
        load_tasks(tmp_path)


# --- what the tasks ask for --------------------------------------------------------------------

ASKED = {
    GOOD.replace("{label: }", "{label: {target: lable}}"): (
        'column "lable" is not in a.csv (it has: text, label). Did you mean "label"?'
    ),
    GOOD.replace("text: text", "text: [text, titel]"): 'column "titel" is not in a.csv',
    GOOD.replace("a.csv", "b.csv"): '"b.csv" does not exist in',
    GOOD.replace("a.csv", "folder/b.csv"): '"folder/b.csv" does not exist: there is no folder',
    GOOD.replace("a.csv", "a.xlsx"): "a.xlsx has an unknown extension; readable are .csv, .csv.gz",
    GOOD.replace("text: text\n", ""): 'task "label" names no input; give the columns',
    GOOD.replace("text: text", "text: [text, label]"): (
        'task "label": its target "label" is also an input'
    ),
    GOOD.replace("text: text", "text: [text, text]"): 'text names column "text" twice',
    GOOD + "key: label\n": 'its target "label" is also its key',
    GOOD + "split: label\n": 'its target "label" is also its split',
    GOOD + "key: costumer\n": 'if "label" has none, write key: null there.',
    GOOD + "folder: x\n": 'the top level has an unknown key "folder"',
    GOOD.replace("{label: }", "{label: {kind: number}}"): (
        'row 1 of a.csv has "x" in column "label", which is not a number'
    ),
    GOOD + "image: text\n": 'there is no file "aaa"',
}


@pytest.mark.parametrize("yaml", ASKED)
def test_mistakes_in_what_is_asked(tmp_path, yaml):
    csv(tmp_path)
    (tmp_path / "a.xlsx").write_text("x")
    assert ASKED[yaml] in told(tmp_path, yaml)


def test_tables_with_different_inputs(tmp_path):
    csv(tmp_path)
    csv(tmp_path, "b.csv", price=lambda n: n, age=lambda n: n)
    yaml = (
        "target: label\ntasks:\n  one: {data: a.csv, text: text}\n"
        "  two: {data: b.csv, numbers: %s}\n"
    )
    sentence = told(tmp_path, yaml % "price")
    assert sentence.startswith(
        'task "one" reads "text", but task "two" reads "table"; one backbone'
    )
    yaml = yaml.replace("data: a.csv, text: text", "data: b.csv, numbers: [price, age]")
    assert 'reads the numbers "price", "age", but task "two" reads "price"' in told(
        tmp_path, yaml % "price"
    )


# --- files -------------------------------------------------------------------------------------

FILES = {
    "a.csv": {
        b"": "a.csv is empty; its first line must name the columns",
        b"\n\n": "a.csv is empty; its first line must name the columns",
        b"text,label\n": "a.csv has a header but no rows",
        b"text,label\nu,v\nu,v,w\n": "row 2 of a.csv has 3 cells, but the header names 2 columns",
        b"text,label\nu,v\nu\n": "row 2 of a.csv has 1 cell, but the header names 2 columns",
        b"text,label\n\xe4,v\n": "a.csv is not UTF-8 text (invalid continuation byte); save",
        b"t\xe4xt,label\n": "a.csv is not UTF-8 text",
        "text,label\nu,v\n".encode("utf-16"): "a.csv is not UTF-8 text",
        b"text,label,label\nu,v,w\n": 'a.csv has 2 columns called "label"; rename all but one',
    },
    "a.csv.gz": {b"text,label\n": "a.csv.gz cannot be read"},
    "a.parquet": {
        b"": "a.parquet is empty",
        b"PAR1 no": "a.parquet is not a whole Parquet file",
        b"PAR1PAR1": "a.parquet cannot be read as Parquet",
        b"no": "a.parquet is not a whole Parquet file",
    },
    "a.jsonl": {
        b"": "a.jsonl is empty; it must hold one JSON object a line",
        b'{"text": "u", "label": "v"}\n{"text": \n': "line 2 of a.jsonl is not JSON",
        b'{"text": "u"}\n3\n': "line 2 of a.jsonl is not an object such as",
        b'{"text": "u"}\n': 'column "label" is not in a.jsonl (it has: text)',
        b'{"text": ["u"], "label": "v"}\n': 'row 1 of a.jsonl has a list in column "text"',
        b'{"text": "\xe4", "label": "v"}\n': "a.jsonl is not UTF-8 text",
    },
    "a.json": {b'[{"text": 1},': "a.json is not JSON"},
}
CASES = [(name, content) for name, contents in FILES.items() for content in contents]


@pytest.mark.parametrize(("name", "content"), CASES)
def test_damaged_files(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    yaml = f"data: {name}\ntext: text\ntasks: {{label: }}\n"
    for limit in (2**28, 0):
        assert FILES[name][content] in told(tmp_path, yaml, limit=limit)


def test_the_row_of_a_wrong_number_is_named_in_every_format(tmp_path):
    cells = ["1", "2.5", "", "4 apples"]
    (tmp_path / "a.csv").write_text("n,t\n" + "".join(f"{c},u\n" for c in cells))
    pq.write_table(pa.table({"n": cells}), tmp_path / "a.parquet")
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"n": c}) + "\n" for c in cells))
    for name in ("a.csv", "a.parquet", "a.jsonl"):
        with pytest.raises(TaskgroveError) as caught:
            read(name, {"n": "number"}, tmp_path)
        assert str(caught.value).startswith(
            f'row 4 of {name} has "4 apples" in column "n", which is not a number; correct it'
        )


def test_column_types_that_do_not_fit(tmp_path):
    table = pa.table({"when": pa.array([1], pa.timestamp("s")), "many": [["a"]]})
    pq.write_table(table, tmp_path / "a.parquet")
    for role, column in (("number", "when"), ("string", "many"), ("image", "many")):
        with pytest.raises(TaskgroveError, match=f'column "{column}" of a.parquet holds'):
            read("a.parquet", {column: role}, tmp_path)


def test_missing_files_suggest_near_ones(tmp_path):
    csv(tmp_path, "tickets.csv")
    with pytest.raises(TaskgroveError, match=r'Did you mean "tickets.csv"'):
        read("ticket.csv", {"text": "string"}, tmp_path)


def test_folders_without_data(tmp_path):
    (tmp_path / "empty").mkdir()
    assert "folder empty holds no dataset" in told(tmp_path, GOOD.replace("a.csv", "empty"))
    (tmp_path / "empty" / "a.png").write_bytes(b"x")
    assert "lies in no class's folder" in told(tmp_path, GOOD.replace("a.csv", "empty"))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "state.json").write_text("{}")
    assert "cannot be loaded" in told(tmp_path, GOOD.replace("a.csv", "broken"))


def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch):
    csv(tmp_path)
    monkeypatch.setenv("TASKGROVE_CACHE", str(tmp_path / "a.csv" / "cache"))
    assert "cannot be written" in told(tmp_path, GOOD, limit=0)
    monkeypatch.setenv("TASKGROVE_MEMORY_MB", "lots")
    assert 'TASKGROVE_MEMORY_MB is "lots"' in told(tmp_path, GOOD)


# --- labels ------------------------------------------------------------------------------------


def test_labels_that_cannot_be_learnt(tmp_path):
    csv(tmp_path, label=lambda n: "rare" if n == 7 else "xy"[n % 2])
    assert told(tmp_path, GOOD).startswith(
        'task "label": a label occurs in one row only ("rare"), too few to learn and to test; add '
        "rows, or set on_rare: drop"
    )
    csv(tmp_path, label=lambda n: n)
    assert "100 labels occur in one row only" in told(tmp_path, GOOD)
    assert "set kind: number" in told(tmp_path, GOOD)
    csv(tmp_path, label=lambda n: "same" if n % 3 else "")
    assert 'the only label is "same"' in told(tmp_path, GOOD)
    csv(tmp_path, label=lambda _: "")
    assert 'column "label" of a.csv is empty in every row; name the column' in told(tmp_path, GOOD)
    csv(tmp_path, label=lambda n: "x" if n else "y")
    drop = GOOD + "on_rare: drop\n"
    assert 'the only label is "x"' in told(tmp_path, drop)
    csv(tmp_path, label=lambda n: n)
    assert "no label can be learnt" in told(tmp_path, drop)


def test_a_label_that_training_never_shows(tmp_path):
    def part(n):
        return ("train", "validation", "test", "train")[n % 4]

    def label(n):
        return "new" if n % 4 == 2 and n < 20 else "xy"[n // 4 % 2]

    csv(tmp_path, label=label, part=part)
    sentence = told(tmp_path, GOOD + "split: part\n")
    assert sentence.startswith(
        'task "label": the label "new" is in test (5 rows) but never in train'
    )
    assert "on_rare: drop" in sentence


NUMBERS = {
    "inf": 'task "label": row 5 of a.csv has the target inf in column "label"; it must be finite',
    "-inf": "the target -inf",
    "nan": "the target not a number (nan)",
    "1e300": "the target 1e+300",
}


@pytest.mark.parametrize("cell", NUMBERS)
def test_numbers_that_are_not_finite(tmp_path, cell):
    csv(tmp_path, label=lambda n: cell if n == 4 else n)
    yaml = GOOD.replace("{label: }", "{label: {kind: number}}")
    assert NUMBERS[cell] in told(tmp_path, yaml)
    csv(tmp_path, price=lambda n: "inf" if n == 4 else n)
    sentence = told(tmp_path, GOOD.replace("text: text", "numbers: [price]"))
    assert 'row 5 of a.csv has an infinite number in the input column "price"' in sentence


def test_a_constant_number(tmp_path):
    csv(tmp_path, label=lambda _: 3)
    sentence = told(tmp_path, GOOD.replace("{label: }", "{label: {kind: number}}"))
    assert "every training row has the same number 3" in sentence


def test_lists_need_their_kind(tmp_path):
    rows = "".join(json.dumps({"text": text(n), "label": ["x"]}) + "\n" for n in range(9))
    (tmp_path / "a.jsonl").write_text(rows)
    assert "lists of labels need kind: labels" in told(tmp_path, GOOD.replace("a.csv", "a.jsonl"))


# --- splits ------------------------------------------------------------------------------------


def test_splits_that_do_not_work(tmp_path):
    csv(tmp_path, part=lambda n: "train" if n else "tset", owner=lambda n: n // 10)
    assert (
        told(tmp_path, GOOD + "split: part\n")
        == 'split column "part" of a.csv has the value "tset"; it must be one of "train", '
        '"validation", "test". Did you mean "test"?'
    )
    csv(tmp_path, part=lambda n: "train" if n else "")
    assert "is empty in a row" in told(tmp_path, GOOD + "split: part\n")
    csv(tmp_path, rows=8, owner=lambda n: n // 4, label=lambda n: "xy"[n % 2])
    sentence = told(tmp_path, GOOD + "key: owner\n")
    assert 'task "label" has no labelled row in "' in sentence
    assert "2 different keys); add rows, or change the split" in sentence
    csv(tmp_path, part=lambda n: "train" if n < 50 else "test", owner=lambda n: f"o{n // 20}")
    sentence = told(tmp_path, GOOD + "split: part\nkey: owner\n")
    assert sentence.startswith('the key "o2" (column "owner") is in train (row 50 ')
    assert "and in test (row 51 of a.csv); put all its rows in one split" in sentence
    csv(tmp_path, owner=lambda n: n or "")
    assert told(tmp_path, GOOD + "key: owner\n").startswith(
        'the key column "owner" is empty in 1 rows, first in row 1 of a.csv; fill it in'
    )
    with pytest.raises(TaskgroveError, match="leaves no rows to train on"):
        hash_split(["a"], 0.5, 0.5)


def test_a_column_and_files_both_name_splits(tmp_path):
    csv(tmp_path, part=lambda _: "train")
    csv(tmp_path, "b.csv", part=lambda _: "train")
    yaml = GOOD.replace("a.csv", "{train: a.csv, test: b.csv}") + "split: part\n"
    assert "but the files are already split; give one of the two" in told(tmp_path, yaml)


def test_an_empty_given_split(tmp_path):
    csv(tmp_path)
    csv(tmp_path, "b.csv", label=lambda _: "")
    yaml = GOOD.replace("a.csv", "{train: a.csv, test: b.csv}")
    sentence = told(tmp_path, yaml)
    assert 'task "label" has no labelled row in "test" of "a.csv", "b.csv" (train 8' in sentence


# --- inputs ------------------------------------------------------------------------------------


def test_texts_that_are_all_empty(tmp_path):
    csv(tmp_path, text=lambda _: "")
    assert 'the text column "text" of a.csv is empty in every row' in told(tmp_path, GOOD)


def test_unreadable_images_name_their_row(tmp_path):
    sink = io.BytesIO()
    Image.new("RGB", (4, 4)).save(sink, "PNG")
    for n in range(20):
        (tmp_path / f"{n}.png").write_bytes(sink.getvalue() if n != 3 else b"no picture")
    yaml = GOOD.replace("text: text", "image: photo")
    csv(tmp_path, rows=20, photo=lambda n: f"{n}.png")
    assert told(tmp_path, yaml).startswith('the image in row 4 of a.csv cannot be opened: "3.png"')
    csv(tmp_path, rows=20, photo=lambda n: f"{n}.png" if n != 9 else "other.png")
    assert 'row 10 of a.csv cannot be opened: there is no file "other.png" in' in told(
        tmp_path, yaml
    )
    csv(tmp_path, rows=20, photo=lambda n: "" if n in (0, 2) else f"{n}.png")
    sentence = told(tmp_path, yaml)
    assert "row 1 of a.csv (and 1 more rows) cannot be opened: the cell is empty" in sentence
    assert "on_unreadable: skip" in sentence


def test_new_rows_are_checked_alike():
    rows = from_table(pa.table({"photo": [b"no"]}), {"photo": "image"})
    with pytest.raises(TaskgroveError, match="the image in row 1 of rows cannot be opened"):
        raw_from(rows, Inputs(image="photo"))


def test_new_rows_are_counted_from_the_start_of_their_file(tmp_path):
    pq.write_table(pa.table({"photo": [b"no"] * 9}), tmp_path / "a.parquet")
    rows = read("a.parquet", {"photo": "image"}, tmp_path)
    with pytest.raises(TaskgroveError, match=r"the image in row 5 of a.parquet"):
        raw_from(slices(rows, 4)[1], Inputs(image="photo"))


def test_a_wrong_number_in_the_second_file(tmp_path):
    for name, cell in (("a.csv", "1"), ("b.csv", "one")):
        (tmp_path / name).write_text(f"n\n2\n{cell}\n")
    for role in ("number", "string"):
        with pytest.raises(TaskgroveError, match=r'row 2 of b.csv has "one" in column "n"'):
            numbers_of(read({"train": "a.csv", "test": "b.csv"}, {"n": role}, tmp_path), "n")


# --- init --------------------------------------------------------------------------------------


def test_files_that_cannot_be_proposed(tmp_path):
    with pytest.raises(TaskgroveError, match="no file is named"):
        propose([])
    with pytest.raises(TaskgroveError, match="does not exist"):
        propose([tmp_path / "a.csv"])
    (tmp_path / "a.csv").write_text("a,b\n1,x\n")
    with pytest.raises(TaskgroveError, match=r"a.csv has no column that could be"):
        propose([tmp_path / "a.csv"])
    (tmp_path / "b.csv").write_text("a,b\n")
    with pytest.raises(TaskgroveError, match=r"b.csv has no rows"):
        propose([tmp_path / "b.csv"])
