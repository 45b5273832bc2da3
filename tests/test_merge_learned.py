"""AdaMerging of transformers folders: out of core, opened again by transformers, told in files."""

import json
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    BertTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2ForSequenceClassification,
)

from taskgrove.errors import TaskgroveError
from taskgrove.merging.checkpoint import open_checkpoint
from taskgrove.merging.learned import disk_vectors
from taskgrove.merging.learned.cleaned import CleanVectors
from taskgrove.merging.learned.disk_vectors import DiskVectors
from taskgrove.merging.learned.partition import parts_of
from taskgrove.merging.learned.scaled_merge import ScaledMerge
from taskgrove.merging.learned.vectors import MemoryVectors, gram, inner
from taskgrove.merging.models import Arrays
from taskgrove.methods.learned_report import Learning, told
from taskgrove.methods.learned_rows import Texts
from taskgrove.methods.merge_learned import merge_learned
from tiny_language_models import tiny_tokenizer

WORDS = ["good", "bad", "fine", "poor", "cat", "dog", "bird", "sat", "ran", "mat", "road"]
TASKS = {"mood": ["no", "yes"], "animal": ["cat", "dog", "bird"]}
QUICK = Learning(steps=3, batch=4, learning_rate=0.05)


# --- vectors on disk ---------------------------------------------------------------------------


@settings(max_examples=15, deadline=None)
@given(
    kind=st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.float64]),
    models=st.integers(1, 5),
    held=st.sampled_from([4096, 2**20]),
    seed=st.integers(0, 99),
)
def test_vectors_on_disk_are_those_in_memory(tmp_path_factory, kind, models, held, seed):
    folder = tmp_path_factory.mktemp("disk")
    g = torch.Generator().manual_seed(seed)
    base = {"w": torch.randn(93, 101, generator=g), "b": torch.randn(7, generator=g)}
    base = {n: w.to(kind) for n, w in base.items()} | {"s": torch.tensor(0.5).to(kind)}
    tuned = [
        {n: (w.double() + 0.1 * torch.randn(w.shape, generator=g).double()).to(kind)
         for n, w in base.items()}
        for _ in range(models)
    ]  # fmt: skip
    for n, each in enumerate([base, *tuned]):
        save_file(each, folder / f"{n}.safetensors")
    opened = [open_checkpoint(folder / f"{n}.safetensors") for n in range(models + 1)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(disk_vectors, "HELD", held)
        disk = DiskVectors(opened[0], opened[1:])
    tau = {n: torch.stack([t[n].float() - base[n].float() for t in tuned]) for n in disk.names}
    memory = MemoryVectors({n: w.float() for n, w in base.items()}, tau)
    assert set(disk.names) == {"b", "s", "w"}
    G = torch.randn(93, 101, generator=g)
    for parts in (None, lambda start, stop: parts_of("w", start, stop, 3, 0)):
        many = () if parts is None else (parts, 3)
        torch.testing.assert_close(
            inner(disk.blocks("w"), models, G, *many),
            inner(memory.blocks("w"), models, G, *many),
            rtol=1e-5,
            atol=1e-4,
        )
    for granularity in ("task", "tensor"):
        mine = ScaledMerge(disk, granularity).weights()
        theirs = ScaledMerge(memory, granularity).weights()
        for name in base:
            torch.testing.assert_close(mine[name], theirs[name], rtol=1e-5, atol=1e-6)
    one = disk.only([models - 1])
    torch.testing.assert_close(gram(one)[0, 0], gram(memory)[-1, -1], rtol=1e-5, atol=1e-6)
    clean = [CleanVectors(v, 0.3) for v in (disk, memory)]
    for (_, mine), (_, theirs) in zip(clean[0].blocks("b"), clean[1].blocks("b"), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_a_step_reads_every_model_twice_in_its_own_format(tmp_path):
    base = {"w": torch.randn(100, 120).bfloat16()}
    for n in range(5):
        save_file(base, tmp_path / f"{n}.safetensors")
    first, *rest = [open_checkpoint(tmp_path / f"{n}.safetensors") for n in range(5)]
    vectors = DiskVectors(first, rest)
    merge = ScaledMerge(vectors)
    merge.weights()
    merge.backward_from({"w": torch.ones(100, 120)})
    assert vectors.bytes_read == 2 * 12000 * (2 * 5 + 1)  # and the base's numbers once more


def test_small_tensors_are_read_once_while_there_is_room(monkeypatch):
    base = Arrays("base", {"a": np.zeros(40, np.float32), "b": np.ones(50, np.float32)})
    tuned = Arrays("tuned", {n: e.values + 1 for n, e in base.entries.items()})
    monkeypatch.setattr(disk_vectors, "HELD", 60)
    vectors = DiskVectors(base, [tuned])
    for _ in range(3):
        for name in vectors.names:
            found = inner(vectors.blocks(name), 1, vectors.base(name) + 1)
            assert found == torch.tensor([40.0 if name == "a" else 100.0])
    assert vectors.bytes_read == 4 * (3 * 40 + 2 * 40 + 3 * 50 + 3 * 2 * 50)


def test_memory_of_blocks_does_not_grow_with_models():
    base = Arrays("base", {"w": np.zeros(10, np.float32)})
    held = [DiskVectors(base, [base] * k)._tau.numel() for k in (1, 2, 8, 32, 100)]
    assert max(held) == disk_vectors.HELD


def test_nan_on_disk_is_named():
    base = Arrays("base", {"w": np.zeros(3, np.float32)})
    bad = Arrays("the third", {"w": np.float32([0, np.nan, 1])})
    with pytest.raises(TaskgroveError, match='"w" of the third holds NaN'):
        ScaledMerge(DiskVectors(base, [bad])).weights()
    with pytest.raises(TaskgroveError, match="got no tuned model"):
        DiskVectors(base, [])


# --- folders -----------------------------------------------------------------------------------


def rows_file(path, task, rows=24, seed=0):
    rng = np.random.default_rng(seed)
    lines = ["text,label"]
    for _ in range(rows):
        lines.append(f"{' '.join(rng.choice(WORDS, rng.integers(1, 6)))},{rng.choice(TASKS[task])}")
    path.write_text("\n".join(lines) + "\n")
    return path


def vocabulary(folder):
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "vocab.txt"
    file.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]))
    return BertTokenizerFast(vocab_file=str(file))


def bert(task):
    names = dict(enumerate(TASKS[task]))
    config = BertConfig(
        vocab_size=16, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=16, num_labels=len(names), id2label=names,
        label2id={name: n for n, name in names.items()},
    )  # fmt: skip
    return BertForSequenceClassification(config)


def moved(model, seed, spread=0.1):
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for w in model.parameters():
            w += spread * torch.randn(w.shape, generator=g)
    return model


@pytest.fixture(scope="module")
def classifiers(tmp_path_factory):
    """A base saved as BertModel, without "bert.", two classifiers, their rows."""
    root = tmp_path_factory.mktemp("classifiers")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        trunk = bert("mood").bert
        trunk.save_pretrained(root / "base")
        vocabulary(root / "base").save_pretrained(root / "base")
        for n, task in enumerate(TASKS):
            model = bert(task)
            model.bert.load_state_dict(trunk.state_dict())
            moved(model, n).save_pretrained(root / task)
            vocabulary(root / task).save_pretrained(root / task)
            rows_file(root / f"{task}.csv", task, seed=n)
    return root


def run(root, out, tasks=tuple(TASKS), **more):
    return merge_learned(
        root / "base", [root / t for t in tasks], [root / f"{t}.csv" for t in tasks], out,
        **{"learning": QUICK, **more},
    )  # fmt: skip


def test_classifiers_are_merged_and_open_in_transformers(classifiers, tmp_path):
    out = tmp_path / "merged"
    done = []
    found = run(classifiers, out, label="label", progress=lambda *step: done.append(step))
    assert [step[:2] for step in done] == [(1, 3), (2, 3), (3, 3)]
    facts = json.loads((out / "coefficients.json").read_text())
    weights = load_file(out / "model.safetensors")
    base = load_file(classifiers / "base" / "model.safetensors")
    tuned = [load_file(classifiers / task / "model.safetensors") for task in TASKS]
    assert len(facts["tensors"]) == len(base)
    for name, column in zip(facts["tensors"], np.array(facts["values"]).T, strict=True):
        theta_0 = base[name.removeprefix("bert.")]
        expected = theta_0 + sum(
            c * (t[name] - theta_0) for c, t in zip(column, tuned, strict=True)
        )
        torch.testing.assert_close(weights[name], expected, rtol=1e-5, atol=1e-6)
    assert np.ptp(facts["values"]) > 0.01
    assert facts["tensors"][0] == "bert.embeddings.word_embeddings.weight"  # the model's order
    assert facts["classes"] == {task: list(names) for task, names in TASKS.items()}
    assert (out / "model.safetensors").stat().st_mode & 0o44 == 0o44
    trunk = AutoModel.from_pretrained(out)
    for task, own in zip(TASKS, tuned, strict=True):
        folder = out / "heads" / task
        model, info = AutoModelForSequenceClassification.from_pretrained(
            folder, output_loading_info=True
        )
        assert not info["missing_keys"]
        assert not info["unexpected_keys"]
        assert torch.equal(model.classifier.weight, own["classifier.weight"])
        assert model.config.id2label == dict(enumerate(TASKS[task]))
        ids = AutoTokenizer.from_pretrained(folder)("good cat", return_tensors="pt")
        with torch.no_grad():
            torch.testing.assert_close(
                model.eval().bert(**ids)[0], trunk.eval()(**ids)[0], rtol=1e-5, atol=1e-5
            )
        shard = folder / "trunk.safetensors"
        assert shard.stat().st_ino == (out / "model.safetensors").stat().st_ino  # on disk once
        moved_away = shutil.copytree(folder, tmp_path / f"copied-{task}")
        AutoModelForSequenceClassification.from_pretrained(moved_away)
    assert not (tmp_path / ".merged.part").exists()
    for picture in ("coefficients", "entropy", "predictions"):
        assert (out / f"{picture}.png").read_bytes().startswith(b"\x89PNG")
    assert facts["tasks"] == list(TASKS)
    assert np.shape(facts["entropy"]) == (3, 2)
    assert sum(facts["predictions"]["animal"]) == 3 * 4
    assert "taken as one" in facts["notes"][0]
    assert "entropy" in told(found)


def test_accuracies_are_those_of_the_models(classifiers, tmp_path):
    found = run(classifiers, tmp_path / "m", label="label")
    for task in TASKS:
        lines = (classifiers / f"{task}.csv").read_text().split("\n")[1:-1]
        texts, labels = zip(*(line.rsplit(",", 1) for line in lines), strict=True)
        y = torch.tensor([TASKS[task].index(label) for label in labels])
        for what, folder in [("tuned", classifiers / task), ("after", tmp_path / "m/heads" / task)]:
            model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
            ids = AutoTokenizer.from_pretrained(folder)(
                list(texts), padding=True, return_tensors="pt"
            )
            with torch.no_grad():
                right = (model(**ids).logits.argmax(1) == y).float().mean().item()
            assert found.scores[task][what] == pytest.approx(right)
        assert set(found.scores[task]) == {"base", "before", "tuned", "after"}


def stopped_at(step):
    def stop(done, *_):
        if done == step:
            raise KeyboardInterrupt

    return stop


def test_labels_do_not_change_the_merge_and_a_kill_neither(classifiers, tmp_path, monkeypatch):
    monkeypatch.setattr("taskgrove.methods.merge_learned.EVERY", 2)
    learning = Learning(steps=5, batch=4)
    plain = run(classifiers, tmp_path / "plain", learning=learning)
    steps = []
    more = {"learning": learning, "label": "label"}
    with pytest.raises(KeyboardInterrupt):
        run(classifiers, tmp_path / "m", progress=stopped_at(3), **more)
    assert not (tmp_path / "m").exists()
    again = run(classifiers, tmp_path / "m", progress=lambda n, *_: steps.append(n), **more)
    assert steps == [3, 4, 5]
    assert torch.equal(plain.found.coefficients, again.found.coefficients)
    mine, theirs = ((tmp_path / n / "model.safetensors").read_bytes() for n in ("m", "plain"))
    assert mine == theirs


def test_a_state_of_another_run_is_not_gone_on_with(classifiers, tmp_path, monkeypatch):
    monkeypatch.setattr("taskgrove.methods.merge_learned.EVERY", 1)
    with pytest.raises(KeyboardInterrupt):
        run(classifiers, tmp_path / "m", progress=stopped_at(2))
    steps = []
    with pytest.raises(KeyboardInterrupt):
        run(
            classifiers, tmp_path / "m", learning=Learning(steps=3, batch=5),
            progress=lambda n, *_: (steps.append(n), stopped_at(1)(n)),
        )  # fmt: skip
    assert steps == [1]


def test_plus_and_task_wise_and_jsonl_and_pairs(classifiers, tmp_path):
    rows = [{"a": "good cat", "b": "dog"}, {"a": "bad mat", "b": ""}, {"a": "ran", "b": "road"}]
    for task in TASKS:
        (tmp_path / f"{task}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = merge_learned(
        classifiers / "base", [classifiers / t for t in TASKS],
        [tmp_path / f"{t}.jsonl" for t in TASKS], tmp_path / "m", text=("a", "b"),
        learning=Learning(steps=2, batch=2, plus=True, granularity="task"),
    )  # fmt: skip
    assert found.found.coefficients.shape == (2,)
    assert "1 rows without text" in " ".join(found.notes)
    facts = json.loads((tmp_path / "m/coefficients.json").read_text())
    assert facts["settings"]["plus"] is True


# --- causal language models, classifiers on them -------------------------------------------------


def qwen(kind, tokens, tie, **more):
    config = Qwen2Config(
        vocab_size=tokens, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=64,
        tie_word_embeddings=tie, **more,
    )  # fmt: skip
    return kind(config)


@pytest.mark.parametrize("tie", [True, False])
def test_causal_language_models(tmp_path, tie):
    tokenizer = tiny_tokenizer()
    (tmp_path / "rows.csv").write_text("text\nthe cat sat on the mat\na dog\nthe bird and a cat\n")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        base = qwen(Qwen2ForCausalLM, len(tokenizer), tie).to(torch.bfloat16)
    for n, name in enumerate(["base", "one", "two"]):
        moved(base, n, 0.0 if n == 0 else 0.05).save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    found = merge_learned(
        tmp_path / "base", [tmp_path / "one", tmp_path / "two"], [tmp_path / "rows.csv"] * 2,
        tmp_path / "m", learning=Learning(steps=2, batch=2, learning_rate=0.05),
    )  # fmt: skip
    model, info = AutoModelForCausalLM.from_pretrained(tmp_path / "m", output_loading_info=True)
    assert not info["missing_keys"]
    assert model.dtype == torch.bfloat16
    written = load_file(tmp_path / "m/model.safetensors")
    assert written.keys() == load_file(tmp_path / "base/model.safetensors").keys()
    assert ("lm_head.weight" in found.found.tensors) is not tie
    weight = "model.embed_tokens.weight"
    theta_0, *tuned = (
        load_file(tmp_path / n / "model.safetensors")[weight].float()
        for n in ("base", "one", "two")
    )
    c = found.found.coefficients[:, found.found.tensors.index(weight)]
    expected = theta_0 + sum(x * (t - theta_0) for x, t in zip(c, tuned, strict=True))
    assert torch.equal(written[weight], expected.bfloat16())
    ids = tokenizer(["the cat sat on the mat"], return_tensors="pt")
    batch = {n: ids[n] for n in ("input_ids", "attention_mask")}
    both = [AutoModelForCausalLM.from_pretrained(tmp_path / n).float().eval() for n in ("one", "m")]
    with torch.no_grad():
        assert not torch.allclose(both[0](**batch).logits, both[1](**batch).logits)
    assert not (tmp_path / "m/heads").exists()


def test_batches_are_padded_on_the_tokenizers_side():
    encoded = {"input_ids": [[5, 6, 7], [8]], "attention_mask": [[1, 1, 1], [1]]}
    rows = torch.tensor([1, 0])
    right, left = (Texts(encoded, 9, side).batch(rows) for side in ("right", "left"))
    assert right["input_ids"].tolist() == [[8, 9, 9], [5, 6, 7]]
    assert left["input_ids"].tolist() == [[9, 9, 8], [5, 6, 7]]
    assert left["attention_mask"].tolist() == [[0, 0, 1], [1, 1, 1]]
    assert right["attention_mask"].tolist() == [[1, 0, 0], [1, 1, 1]]


def test_short_rows_of_a_classifier_without_a_pad_token(tmp_path):
    """A batch's logits are those of each row alone: the last real token is found."""
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = None
    with torch.random.fork_rng():
        torch.manual_seed(0)
        base = qwen(Qwen2ForSequenceClassification, len(tokenizer), False, num_labels=3)
    for n, name in enumerate(["base", "one"]):
        moved(base, n, 0.0 if n == 0 else 0.1).save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    texts = ["the cat sat on the mat", "a dog"]
    (tmp_path / "rows.csv").write_text("\n".join(["text,label", *(f"{t},0" for t in texts)]))
    found = merge_learned(
        tmp_path / "base", [tmp_path / "one"], [tmp_path / "rows.csv"], tmp_path / "m",
        label="label", learning=Learning(steps=1, batch=2),
    )  # fmt: skip
    assert "score.weight" not in found.found.tensors
    alone = []
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "base").eval()
    tuned = AutoModelForSequenceClassification.from_pretrained(tmp_path / "one").eval()
    with torch.no_grad():
        for (_, w), (_, t) in zip(
            model.model.named_parameters(), tuned.model.named_parameters(), strict=True
        ):
            w += 0.3 * (t - w)
        model.score.weight.copy_(tuned.score.weight)
        for text in texts:
            alone.append(model(**tokenizer(text, return_tensors="pt")).logits[0])
    p = torch.stack(alone).softmax(1)
    entropy = -(p * p.log()).sum(1).mean()
    torch.testing.assert_close(found.found.entropy[0, 0], entropy, rtol=1e-4, atol=1e-5)


# --- what is refused ---------------------------------------------------------------------------


def test_mistakes_are_told_before_anything_is_written(classifiers, tmp_path):
    base, mood, rows = (classifiers / n for n in ("base", "mood", "mood.csv"))

    def refused(words, *given, **more):
        with pytest.raises(TaskgroveError, match=words):
            merge_learned(*given, **{"learning": QUICK, **more})
        assert not list(tmp_path.glob(".*part"))

    out = tmp_path / "m"
    refused("1 tuned models and 2 files", base, [mood], [rows, rows], out)
    refused("given twice", base, [mood, mood], [rows, rows], out)
    refused("exists; give a folder", base, [mood], [rows], classifiers)
    refused('column "txt" is not in mood.csv.*Did you mean "text"', base, [mood], [rows], out,
            text=("txt",))  # fmt: skip
    other = rows_file(tmp_path / "animal.csv", "animal")
    refused("is no class of its model", base, [mood], [other], out, label="label")
    encoder = shutil.copytree(base, tmp_path / "encoder")
    refused("predicts no classes", base, [encoder], [rows], out)
    headless = shutil.copytree(mood, tmp_path / "headless")
    weights = load_file(headless / "model.safetensors")
    save_file({n: w for n, w in weights.items() if "classifier" not in n},
              headless / "model.safetensors", {"format": "pt"})  # fmt: skip
    refused('lacks "classifier.weight", "classifier.bias"', base, [headless], [rows], out)
    smaller = shutil.copytree(mood, tmp_path / "smaller")
    weights["bert.pooler.dense.weight"] = torch.zeros(16, 8)
    save_file(weights, smaller / "model.safetensors", {"format": "pt"})
    refused("shapes differ in", base, [smaller], [rows], out)
    (tmp_path / "empty.csv").write_text("text\n\n")
    refused("row", base, [mood], [tmp_path / "empty.csv"], out)


def test_a_collapse_is_warned_of(classifiers, tmp_path):
    weights = load_file(classifiers / "mood/model.safetensors")
    weights["classifier.bias"] = torch.tensor([50.0, 0.0])
    sure = shutil.copytree(classifiers / "mood", tmp_path / "sure")
    save_file(weights, sure / "model.safetensors", {"format": "pt"})
    found = merge_learned(
        classifiers / "base", [sure], [classifiers / "mood.csv"], tmp_path / "m", learning=QUICK
    )
    assert 'task "sure": one class takes 100%' in " ".join(found.notes)
    assert json.loads((tmp_path / "m/coefficients.json").read_text())["predictions"]["sure"][1] == 0
