"""What a user gets wrong in a merge: one sentence, exit code 2, nothing written."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from command_line import call
from taskgrove.merging.checkpoint import open_checkpoint
from taskgrove.merging.recipe import recipe_of
from taskgrove.merging.static.table import STATIC
from test_merge_stream import arrays, write

BIG = {"w": (300, 300)}


@pytest.fixture
def place(tmp_path):
    """base, t1, t2 in a folder of their own."""
    base = arrays(0, spread=1.0)
    write(tmp_path / "base", base)
    for k in (1, 2):
        write(tmp_path / f"t{k}", arrays(k, start=base))
    return tmp_path


def merge(place, *words, method="ties", tuned=("t1", "t2"), base="base"):
    """The sentence; nothing may be left beside the inputs."""
    before = set(place.rglob("*"))
    options = ["--base", place / base] if base else []
    answer = call(
        "merge", method, *options, "--tuned", *(place / t for t in tuned), "--out", place / "out",
        *words,
    )  # fmt: skip
    assert set(place.rglob("*")) == before
    return answer.sentence()


def rewrite(folder, **changes):
    """Changes tensors of a folder; None takes one away."""
    from safetensors.numpy import load_file

    file = folder / "model.safetensors"
    found = {**load_file(file), **{k.replace("__", "."): v for k, v in changes.items()}}
    save_file({k: v for k, v in found.items() if v is not None}, file)


def test_the_right_words_merge(place):
    answer = call(
        "merge", "ties", "--base", place / "base", "--tuned", place / "t1", place / "t2",
        "--out", place / "new" / "out", "--density", "0.5",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    assert answer.out.startswith("model ")
    assert (place / "new/out/model.safetensors").is_file()


def test_mistyped_names(place):
    assert 'Did you mean "ties"?' in merge(place, method="tiess")
    answer = call("merge", "ties", "--tuned", place / "t1", "--densty", "0.1")
    assert answer.code == 2
    assert "--densty" in answer.err
    assert f'Did you mean "{place / "t1"}"' in merge(place, tuned=("t11", "t2"))
    assert "does not exist" in merge(place, base="bose")


@pytest.mark.parametrize("density", [0, -0.1, 1.1, "nan"])
def test_density_outside(place, density):
    assert f"density is {float(density)}" in merge(place, "--density", density)


def test_weights(place):
    said = merge(place, "--weights", 1, -1, method="average")
    assert "weights [1.0, -1.0] sum to 0" in said
    said = merge(place, "--weights", 1, 2, 3, method="average")
    assert "weights has 3 values; expected one for each of the 2 models" in said
    assert "expected a number" in merge(place, "--scale", "inf", method="task_arithmetic")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("who", ["base", "t2"])
def test_numbers_that_are_not_finite(place, value, who):
    norm = arrays(0)["layers.0.norm"]
    norm[3] = value
    rewrite(place / who, layers__0__norm=norm)
    said = merge(place)
    assert f'tensor "layers.0.norm" of {place / who} holds NaN or infinity' in said
    answer = call(
        "merge", "average", "--tuned", place / "t1", place / "t2", "--base", place / "base",
        "--out", place / "out", "--allow-nan",
    )  # fmt: skip
    assert answer.code == 0


def test_a_merge_that_overflows(place):
    numbers = arrays(0, spread=10).items()
    big = {n: np.asarray((v.astype("f4") * 500).astype("f2")) for n, v in numbers}
    write(place / "b16", arrays(0, np.float16))
    write(place / "big", big)
    said = merge(place, "--scale", 9.0, method="task_arithmetic", tuned=("big",), base="b16")
    assert "is not finite as F16: use a smaller scale" in said


def test_names_and_shapes(place):
    rewrite(place / "t1", s=None, more=np.zeros(2, "f4"))
    rewrite(place / "t2", layers__0__norm=arrays(0)["layers.0.norm"][:4])
    said = merge(place)
    assert f'{place / "t1"} does not fit {place / "base"}: it lacks "s"; ' in said
    assert f'{place / "base"} lacks "more"' in said
    assert 'shapes differ in "layers.0.norm (4,) against (8,)"' in said


def test_tables_with_other_rows_are_two_vocabularies(place):
    width = arrays(0)["layers.0.norm"].shape[0]
    for name, rows in (("base", 5), ("t1", 7), ("t2", 5)):
        rewrite(place / name, embed__weight=np.zeros((rows, width), "f4"))
    said = merge(place)
    assert said.endswith(
        "If their vocabularies differ: --vocabulary union, which matches rows by token."
    )
    rewrite(place / "t1", embed__weight=np.zeros((5, width + 1), "f4"))
    assert "vocabular" not in merge(place)


def test_consensus_of_more_tasks_than_models_is_planned_away(place):
    words = ("--base", place / "base", "--tuned", place / "t1", place / "t2", "--plan")
    answer = call("merge", "consensus", *words, "--consensus-tasks", 3)
    assert answer.code == 2
    assert "tasks is 3, but 2 models are merged" in answer.out
    assert call("merge", "consensus", *words, "--consensus-tasks", 2).code == 0


@pytest.mark.parametrize("method", STATIC)
def test_every_method_has_a_command(method):
    assert "--tuned" in call("merge", method, "--help").out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("regmean", "--tuned", "A", "B"), "regmean: it needs --gram: "),
        (("ties", "--base", "B"), "ties: it needs --tuned: "),
        (("adamerging", "--tuned", "A"), "adamerging: it needs --base: "),
        (("rebasin", "--out", "M"), "rebasin: it needs --tuned: "),
        (("ties", "--tuned", "A", "--densty", 1), "No such option: --densty"),
        (("ties", "--tuned", "A", "--density", "x"), "Invalid value for '--density'"),
    ],
)
def test_words_that_no_command_has_are_one_sentence(words, sentence):
    told = call("merge", *words).sentence()
    assert sentence in told
    assert f"`taskgrove merge {words[0]} --help`" in told


def test_heads_are_left_out_by_name(place):
    rewrite(place / "t1", classifier__weight=np.zeros((2, 8), "f4"))
    assert "Leave task heads out: --ignore classifier.*" in merge(place)
    assert "matches no tensor" in merge(place, "--ignore", "classifier.*", "clasifier.*")
    answer = call(
        "merge", "ties", "--base", place / "base", "--tuned", place / "t1", place / "t2",
        "--out", place / "out", "--ignore", "classifier.*",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    assert "classifier.weight" not in open_checkpoint(place / "out").entries


def test_tied_against_untied(place):
    rewrite(place / "t1", lm_head__weight=arrays(0)["embed.weight"])
    assert 'has its own "lm_head.weight"' in merge(place)


def test_mixed_number_formats(place):
    rewrite(place / "t1", **{n.replace(".", "__"): v.astype("f4") for n, v in arrays(1).items()})
    said = merge(place)
    assert "different number formats" in said
    assert "--dtype bf16" in said
    answer = call(
        "merge", "ties", "--base", place / "base", "--tuned", place / "t1", place / "t2",
        "--out", place / "out", "--dtype", "fp32",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    assert "dtype is fp23; expected one of" in merge(place, "--dtype", "fp23")


def test_integer_buffers(place):
    for who, numbers in (("base", [0, 1]), ("t1", [0, 1]), ("t2", [0, 2])):
        rewrite(place / who, position_ids=np.array(numbers))
    assert 'integer or boolean tensors differ: "position_ids"' in merge(place)
    rewrite(place / "t2", position_ids=np.array([0, 1]), bn__num_batches_tracked=np.array(5))
    for who in ("base", "t1"):
        rewrite(place / who, bn__num_batches_tracked=np.array(1))
    answer = call("merge", "ties", "--base", place / "base", "--tuned", place / "t1", place / "t2",
                  "--out", place / "out")  # fmt: skip
    assert answer.code == 0, answer.err


def test_the_same_model_twice(place):
    assert "are the same model; give each once" in merge(place, tuned=("t1", "t1"))
    (place / "link").symlink_to(place / "base")
    assert "are the same model" in merge(place, tuned=("t1", "link"))


def test_how_many_models(place):
    assert "ties needs the base" in merge(place, base=None)
    answer = call("merge", "ties", "--base", place / "base", "--out", place / "out")
    assert answer.code == 2
    assert "--tuned" in answer.err


def test_where_to(place):
    (place / "out").mkdir()
    assert "out exists; give a folder that does not" in merge(place)
    (place / "out").rmdir()
    answer = call("merge", "ties", "--base", place / "base", "--tuned", place / "t1")
    assert "say where the merged model goes: --out" in answer.sentence()
    answer = call("merge", "ties", "--base", place / "base", "--tuned", place / "t1",
                  "--out", place / "t1" / "out")  # fmt: skip
    assert "lies inside one of the models" in answer.sentence()
    assert "--threads is 0" in merge(place, "--threads", 0)


class TestDamagedFiles:
    """Checked from the headers, before anything is read."""

    def test_cut_short(self, place):
        file = place / "t1/model.safetensors"
        file.write_bytes(file.read_bytes()[:-10])
        assert "it was cut short or has changed" in merge(place)
        file.write_bytes(b"version https://git-lfs")
        assert "not a safetensors file, or was cut short" in merge(place)
        file.write_bytes(b"")
        assert "not a safetensors file" in merge(place)

    def test_header_is_not_what_it_seems(self, place):
        file = place / "t1/model.safetensors"
        for header, said in (
            (b'{"w": {"dtype": "F32"}}', "is damaged"),
            (b"[[[[", "is damaged"),
            (b'{"w": {"dtype": "Q4", "shape": [1], "data_offsets": [0, 4]}}', "is of type Q4"),
            (b'{"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}', "F32 (2,) needs 8"),
            (b'{"w": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}', "is damaged"),
            (b'{"w": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}', "does not begin"),
        ):
            file.write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 4)
            assert said in merge(place), header

    def test_shards(self, place):
        tensors = arrays(0)
        folder = write(place / "sharded", tensors, shards=2)
        index = folder / "model.safetensors.index.json"
        facts = json.loads(index.read_text())
        first = folder / "model-00001-of-00002.safetensors"

        def with_map(**changes):
            index.write_text(json.dumps({"weight_map": {**facts["weight_map"], **changes}}))
            return merge(place, tuned=("t1", "sharded"))

        assert "points outside its folder" in with_map(s="../t1/model.safetensors")
        assert "points outside its folder" in with_map(s="/etc/passwd")
        assert "lacks shards that its index names" in with_map(s="model-00003.safetensors")
        assert "disagree on" in with_map(s=first.name)
        assert "disagree on" in with_map(more=first.name)
        save_file(tensors, first)
        assert "and again in" in with_map()
        first.unlink()
        assert "lacks shards" in with_map()
        index.write_text("{")
        assert "is not a JSON object" in merge(place, tuned=("t1", "sharded"))
        index.unlink()
        save_file(tensors, first)
        assert "no model.safetensors.index.json" in merge(place, tuned=("t1", "sharded"))

    def test_no_weights_at_all(self, place):
        (place / "empty").mkdir()
        assert "expected model.safetensors" in merge(place, tuned=("t1", "empty"))


class TestPlan:
    """--plan says it all at once and stops."""

    def plan(self, place, *words):
        before = set(place.rglob("*"))
        answer = call("merge", "ties", "--base", place / "base", "--tuned", place / "t1",
                      place / "t2", "--plan", *words)  # fmt: skip
        assert set(place.rglob("*")) == before
        return answer

    def test_without_problems(self, place):
        answer = self.plan(place)
        assert answer.code == 0
        lines = dict(line.split(maxsplit=1) for line in answer.out.splitlines())
        size = sum(v.nbytes for v in arrays(0).values())
        assert lines["tensors"] == "4 merged, 0 as the base has them"
        assert lines["read"] == f"{3 * 2 * size / 1e6:,.1f} MB in 2 passes"
        assert lines["problems"] == "none"

    def test_every_problem(self, place):
        rewrite(place / "t1", s=None)
        rewrite(place / "t2", layers__0__norm=arrays(0)["layers.0.norm"].astype("f4"))
        (place / "out").mkdir()
        answer = self.plan(place, "--out", place / "out", "--density", 2)
        assert answer.code == 2
        problems = [line for line in answer.out.splitlines() if line.startswith("- ")]
        assert len(problems) == 4
        for said in ("lacks", "number formats", "density is 2.0", "exists"):
            assert any(said in line for line in problems), said


class TestRecipe:
    """A merge as a file."""

    def write(self, place, text):
        (place / "recipe.yaml").write_text(text.replace("PLACE", str(place)))
        return place / "recipe.yaml"

    def test_merges_as_the_options_do(self, place):
        path = self.write(
            place,
            "method: ties\nbase: PLACE/base\ntuned: [PLACE/t1, PLACE/t2]\n"
            "parameters: {density: 0.5, scale: [['*.norm', 0.5], ['*', 1.0]]}\n",
        )
        assert recipe_of(path).parameters["density"] == 0.5
        assert call("merge", path, "--out", place / "a").code == 0
        again = call("merge", place / "a" / "merge.json", "--out", place / "b")
        assert again.code == 0, again.err
        for file in ("model.safetensors", "merge.json"):
            assert (place / "a" / file).read_bytes() == (place / "b" / file).read_bytes()

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("method: ties\ntuned: [a]\nbaze: b\n", 'no key "baze"'),
            ("method: ties\n", 'lacks "tuned"'),
            ("method: ties\ntuned: a\n", "tuned is 'a'; expected a list of folders"),
            ("method: ties\nmethod: dare\n", "written twice"),
            ("- ties", "holds no keys"),
            ("method: ties\ntuned: [PLACE/t1]\nbase: PLACE/base\nparameters: {dense: 1}",
             'ties has no parameter "dense"'),
        ],
    )  # fmt: skip
    def test_what_is_wrong_with_it(self, place, text, said):
        path = self.write(place, text)
        assert said in call("merge", path, "--out", place / "out").sentence()
        assert not (place / "out").exists()

    def test_no_file(self, place):
        said = call("merge", place / "none.yaml", "--out", Path("out")).sentence()
        assert "does not exist; expected a recipe" in said
