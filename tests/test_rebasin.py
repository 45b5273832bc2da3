"""Symmetries by tracing, weight matching, and the door to both."""

from itertools import pairwise

import numpy as np
import pytest
import torch
import transformers as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from reference import permuted as twin
from taskgrove.errors import TaskgroveError
from taskgrove.merging.aligned import axis_trace
from taskgrove.merging.aligned.axis_rules import same
from taskgrove.merging.aligned.permutations import Group, move, permuted, random_permutations
from taskgrove.merging.aligned.rebasin import merge_many, weight_matching
from taskgrove.merging.aligned.symmetries import symmetries
from taskgrove.merging.in_memory import merged
from taskgrove.methods.merge_rebasin import align, align_folders, load, open_model, state_of

IDS = torch.tensor([[3, 17, 5, 40, 2, 9, 11], [8, 1, 30, 22, 4, 4, 19]])
SIZES = {
    "vocab_size": 50, "hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 3,
    "intermediate_size": 20, "max_position_embeddings": 16, "bos_token_id": 0, "eos_token_id": 1,
}  # fmt: skip
SMALL = SIZES | {"hidden_size": 16, "num_attention_heads": 4, "num_key_value_heads": 2}


class Cnn(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.n = nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.b, self.g = nn.Conv2d(8, 8, 3, padding=1), nn.GroupNorm(2, 8)
        self.c, self.d = nn.Conv2d(8, 6, 3), nn.Conv2d(6, 6, 3, groups=6)
        self.o = nn.Linear(6 * 4, 3)

    def forward(self, x):
        x = torch.relu(self.n(self.a(x)))
        x = nn.functional.max_pool2d(torch.relu_(x + self.g(self.b(x))), 2)
        return self.o(self.d(nn.functional.pad(self.c(x), (1, 1, 1, 1))).flatten(1))


class Stacked(nn.Module):
    """Q, K and V in one matrix, as many vision transformers have it."""

    def __init__(self):
        super().__init__()
        self.i, self.qkv, self.o, self.h = (
            nn.Linear(*s) for s in ((5, 12), (12, 36), (12, 12), (12, 2))
        )

    def forward(self, x):
        x = self.i(x)
        q, k, v = self.qkv(x).reshape(2, 6, 3, 3, 4).permute(2, 0, 3, 1, 4).unbind(0)
        z = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(2, 6, 12)
        return self.h(x + self.o(z))


class Gated(nn.Module):
    """Gate and up in one matrix; its parameters' names say nothing."""

    def __init__(self):
        super().__init__()
        self.x, self.y, self.z = nn.Linear(5, 8), nn.Linear(8, 14), nn.Linear(7, 3)
        self.q_proj = nn.LayerNorm(8)

    def forward(self, x):
        gate, up = self.y(self.q_proj(self.x(x))).chunk(2, -1)
        return self.z(nn.functional.silu(gate) * up)


class Recurrent(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.r, self.o = kind(5, 8, batch_first=True), nn.Linear(8, 3)

    def forward(self, x):
        return self.o(self.r(x)[0][:, -1])


def mlp(widths=(5, 8, 9, 3)):
    layers = [m for a, b in pairwise(widths) for m in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def encoder():
    layer = nn.TransformerEncoderLayer(12, 3, 20, batch_first=True)
    first, last = nn.Linear(5, 12), nn.Linear(12, 2)
    return nn.Sequential(first, nn.TransformerEncoder(layer, 1, enable_nested_tensor=False), last)


def gpt2():
    few = {"vocab_size": 50, "n_embd": 12, "n_layer": 1, "n_head": 3, "n_positions": 16}
    return tf.GPT2LMHeadModel(tf.GPT2Config(**few, bos_token_id=0, eos_token_id=1))


def vit():
    config = {"hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 3}
    return tf.ViTForImageClassification(
        tf.ViTConfig(**config, intermediate_size=20, image_size=8, patch_size=4)
    )


WORDS, ROWS, STEPS = {"input_ids": IDS}, torch.randn(4, 5), torch.randn(2, 6, 5)
D, F, H = (12,), (20,), (3,)  # residual stream, feed-forward, heads
QK, V, KV = (3, 4), (3, 4), (2,)  # within each head; key-value heads
MODELS = {  # model, inputs, free groups: (sizes of parents ..., own size)
    "mlp": (mlp, ROWS, [(8,), (9,)]),
    "gated": (Gated, ROWS, [(7,), (8,)]),
    "cnn": (Cnn, torch.randn(2, 1, 8, 8), [(2,), (2, 4), (6,)]),
    "stacked": (Stacked, STEPS, [(3,), (3, 4), (3, 4), (12,)]),
    "encoder": (encoder, STEPS, [(3,), (3, 4), (3, 4), (12,), (20,)]),
    "lstm": (lambda: Recurrent(nn.LSTM), STEPS, [(8,)]),
    "gru": (lambda: Recurrent(nn.GRU), STEPS, [(8,)]),
    "bert": (
        lambda: tf.BertForSequenceClassification(tf.BertConfig(**SIZES)),
        WORDS,
        [H, QK, V, F, D, D],  # the second: of the pooler
    ),
    "gpt2": (gpt2, WORDS, [H, QK, V, D, (48,)]),
    "vit": (vit, {"pixel_values": torch.randn(2, 3, 8, 8)}, [H, QK, V, F, D]),
    "llama": (
        lambda: tf.LlamaForCausalLM(tf.LlamaConfig(**SMALL)),
        WORDS,
        [KV, (2, 2), (2, 4), F, (16,)],  # query heads and V in each; Q and K rotate: frozen
    ),
    "qwen2": (
        lambda: tf.Qwen2ForCausalLM(tf.Qwen2Config(**SMALL, tie_word_embeddings=True)),
        WORDS,
        [KV, (2, 2), (2, 4), F, (16,)],
    ),
}


def made(name, seed=0):
    torch.manual_seed(seed)
    make, inputs, free = MODELS[name]
    model = make().eval()
    with torch.no_grad():
        for x in (*model.parameters(), *(b for n, b in model.named_buffers() if "running" in n)):
            x += 0.1 * torch.rand_like(x)  # no two units alike, variances stay positive
    return model, inputs, free


def outputs(model, inputs):
    with torch.no_grad():
        found = model(**inputs) if isinstance(inputs, dict) else model(inputs)
    return found if isinstance(found, torch.Tensor) else found.logits


def sizes(found, n):
    group = found.groups[n]
    return (*(found.groups[parent].size for parent in group.parents), group.size)


@pytest.mark.parametrize("name", MODELS)
def test_groups_are_all_found_and_hold(name):
    model, inputs, free = made(name)
    found = symmetries(model, inputs)
    assert sorted(sizes(found, n) for n in found.free()) == sorted(free)
    assert not [g for g in found.groups if "without a rule" in g.frozen or "changed" in g.frozen]
    before, state = outputs(model, inputs), state_of(model)
    for only in [[n] for n in found.free()] + [None]:
        pi = random_permutations(found, np.random.default_rng(5), only)
        moved = permuted(found, pi, state)
        assert any((moved[n] != state[n]).any() for n in state)
        load(model, moved)
        torch.testing.assert_close(outputs(model, inputs), before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_a_planted_order_is_found_again(name):
    model, inputs, _ = made(name)
    found, a = symmetries(model, inputs), state_of(model)
    b = permuted(found, random_permutations(found, np.random.default_rng(1)), a)
    back = permuted(found, weight_matching(found, a, b), b)
    assert all((back[n] == a[n]).all() for n in a)
    c = permuted(found, random_permutations(found, np.random.default_rng(2)), a)
    one, two, three = merge_many(found, [a, b, c])
    assert all((one[n] == two[n]).all() and (two[n] == three[n]).all() for n in found.shapes)


def reasons(model, inputs):
    return " ".join(group.frozen for group in symmetries(model, inputs).groups)


class Odd(nn.Module):
    """A hidden layer with an operation between."""

    def __init__(self, between):
        super().__init__()
        self.a, self.b, self.between, self.unused = nn.Linear(5, 8), nn.Linear(8, 3), between, None

    def forward(self, x):
        return self.b(self.between(self.a(x)))


@pytest.mark.parametrize(
    ("between", "why"),
    [
        (lambda h: h.sort(-1).values, "touched by sort"),
        (lambda h: torch.fft.fft(h).abs(), "touched by"),
        (lambda h: h.cumsum(-1), "order matters"),
        (lambda h: h * torch.arange(8.0), "constant"),
        (lambda h: torch.cat([h[:, :3], h[:, 3:].flip(-1)], -1), "order matters"),
        (lambda h: h.reshape(-1, 2, 4).transpose(1, 2).reshape(-1, 8), ""),
        (lambda h: h[:, torch.arange(7, -1, -1)], "picked by number"),
    ],
)
def test_what_is_not_known_is_frozen(between, why):
    model = Odd(between)
    found = symmetries(model, ROWS)
    frozen = " ".join(g.frozen for g in found.groups)
    assert why in frozen
    assert "changed the outputs" not in frozen  # tracing knew; the check had nothing to find
    assert (8,) not in [sizes(found, n) for n in found.free()]


def test_uniform_constants_and_buffers_leave_units_free():
    def between(h):
        h = h * torch.full((8,), 2.0) + torch.zeros_like(h) + 1
        buffer = torch.empty_like(h)
        buffer[:2], buffer[2:] = h[:2], h[2:]
        return buffer

    found = symmetries(Odd(between), ROWS)
    assert [sizes(found, n) for n in found.free()] == [(8,)]


def test_a_rule_that_is_wrong_is_caught_by_the_check(monkeypatch):
    monkeypatch.setitem(axis_trace.RULES, "cumsum", same)
    found = symmetries(Odd(lambda h: h.cumsum(-1)), ROWS)
    assert not found.free()
    assert "a permutation changed the outputs" in " ".join(g.frozen for g in found.groups)


def test_reasons_are_listed():
    model = Odd(torch.relu)
    model.unused = nn.Linear(4, 4)
    text = str(symmetries(model, ROWS))
    for word in (
        "an output of the model",
        "an input",
        "not used on the example inputs",
        "a.weight",
    ):
        assert word in text


def test_the_model_is_left_as_it_was():
    model, inputs, _ = made("encoder")
    model.train()
    model[1].eval()
    modes, before = [m.training for m in model.modules()], state_of(model)
    fast = torch.backends.mha.get_fastpath_enabled(), torch._C._get_mkldnn_enabled()
    symmetries(model, inputs)
    assert modes == [m.training for m in model.modules()]
    assert fast == (torch.backends.mha.get_fastpath_enabled(), torch._C._get_mkldnn_enabled())
    assert all((x == before[n]).all() for n, x in state_of(model).items())


GROUPS = (Group(3, ()), Group(2, (), (0,)), Group(4, (), (0, 1)), Group(5, (), frozen="no"))


@settings(max_examples=25, deadline=None)
@given(st.permutations(range(4)), st.integers(0, 99), st.sets(st.integers(0, 2)))
def test_move_equals_its_twin(dims, seed, moving):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=[GROUPS[g].size for g in dims])
    pi = {}
    for g in moving:
        shape = [GROUPS[p].size for p in (*GROUPS[g].parents, g)]
        pi[g] = rng.permuted(np.broadcast_to(np.arange(shape[-1]), shape), axis=-1)
    assert (move(x, dims, pi, GROUPS) == twin.move(x, dims, pi, GROUPS)).all()


@settings(max_examples=6, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 99))
def test_matching_never_moves_models_apart_nor_changes_them(one, two, seed):
    torch.manual_seed(seed)
    a, b = mlp((5, one, two, 3)), mlp((5, one, two, 3))
    expected = b(ROWS)
    aligned = align([a, b], ROWS, seed)
    assert aligned.after >= aligned.before - 1e-6
    assert all((aligned.states[0][n] == x).all() for n, x in state_of(a).items())
    load(b, aligned.states[1])
    torch.testing.assert_close(b(ROWS), expected, rtol=1e-4, atol=1e-5)
    again = align([a, b], ROWS, seed)  # nothing is left to do
    assert again.after == pytest.approx(aligned.after, abs=1e-6)


class Values(nn.Module):
    """Attention over given scores: heads of V and O are all that may permute."""

    def __init__(self, heads, size):
        super().__init__()
        self.heads, self.size = heads, size
        self.v, self.o = (nn.Linear(*s, bias=False) for s in ((5, heads * size), (heads * size, 3)))

    def forward(self, x):
        v = self.v(x).reshape(2, 6, self.heads, self.size).transpose(1, 2)  # [2 head 6 size]
        mixed = torch.softmax(v.norm(dim=-1, keepdim=True), 2) * v
        return self.o(mixed.transpose(1, 2).reshape(2, 6, -1))


@settings(max_examples=5, deadline=None)
@given(st.sampled_from([(2, 3), (3, 2), (2, 2)]), st.integers(0, 99))
def test_heads_and_what_is_in_them_are_matched_together(shape, seed):
    """Equal to trying every order of heads and of numbers within each."""
    torch.manual_seed(seed)
    a, b = Values(*shape), Values(*shape)
    found = symmetries(a, STEPS)
    assert [sizes(found, n) for n in found.free()] == [shape[:1], shape]
    a, b = state_of(a), state_of(b)
    aligned = permuted(found, weight_matching(found, a, b), b)
    got = sum((a[n] * aligned[n]).sum() for n in a)
    pairs = [(a["v.weight"], b["v.weight"]), (a["o.weight"].T, b["o.weight"].T)]
    assert got == pytest.approx(twin.best_heads(pairs, *shape), rel=1e-5)


def test_same_seed_same_result_and_inputs_are_not_written():
    models = [made("stacked", seed)[0] for seed in range(3)]
    found, states = symmetries(models[0], STEPS), [state_of(m) for m in models]
    kept = [{n: x.copy() for n, x in s.items()} for s in states]
    first, second = merge_many(found, states, 3), merge_many(found, states, 3)
    assert all((x[n] == y[n]).all() for x, y in zip(first, second, strict=True) for n in x)
    assert all((x[n] == y[n]).all() for x, y in zip(states, kept, strict=True) for n in x)


def test_two_runs_on_digits_meet_in_the_middle():
    """Independent runs: the average is poor before alignment, good after it."""
    from sklearn.datasets import load_digits

    x, y = (torch.from_numpy(a) for a in load_digits(return_X_y=True))
    x = x.float() / 16 - 0.3
    models = []
    for seed in range(2):
        torch.manual_seed(seed)
        model = mlp((64, 96, 96, 10))
        optimiser = torch.optim.AdamW(model.parameters(), 2e-3, weight_decay=0.1)
        for _ in range(250):
            rows = torch.randint(1200, (100,))
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
            optimiser.step()
        models.append(model)

    def accuracy(states):
        average = mlp((64, 96, 96, 10))
        load(average, merged("average", None, states))
        return float((average(x[1200:]).argmax(1) == y[1200:]).float().mean())

    before, after = accuracy([state_of(m) for m in models]), accuracy(align(models, x[:4]).states)
    assert after > before + 0.1


class Forks(nn.Linear):
    def forward(self, x):
        h = super().forward(x)
        return h if h.sum() > 0 else -h


class Noisy(nn.Linear):
    def forward(self, x):
        return super().forward(x) + torch.rand(3)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ([mlp()], ROWS), "got 1 model"),
        (lambda: ([], ROWS), "got 0 model"),
        (lambda: ([mlp(), mlp((5, 8, 10, 3))], ROWS), r"model 2 of 2 differs.*\[10, 8\].*\[9, 8\]"),
        (lambda: ([mlp(), mlp((5, 8, 9))], ROWS), "4.weight.*missing"),
        (lambda: ([Forks(5, 3), Forks(5, 3)], ROWS), "depends on numbers"),
        (lambda: ([Noisy(5, 3), Noisy(5, 3)], ROWS), "without random numbers"),
        (lambda: ([mlp(), mlp()], torch.randn(4, 6)), "could not be run"),
        (lambda: ([mlp(), mlp()], {"rows": ROWS}), "could not be run"),
    ],
)
def test_mistakes_are_told_in_one_sentence(make, words):
    with pytest.raises(TaskgroveError, match=words):
        align(*make())


def test_nan_names_the_tensor():
    a, b = mlp(), mlp()
    with torch.no_grad():
        b[2].weight[0, 0] = float("nan")
    with pytest.raises(TaskgroveError, match=r'model 2 of 2 has NaN.*"2\.weight"'):
        align([a, b], ROWS)


def test_folders_to_folders(tmp_path):
    for name, seed in (("a", 0), ("b", 1)):
        model = made("qwen2", seed)[0].to(torch.bfloat16)
        model.save_pretrained(tmp_path / name)
        (tmp_path / name / "tokenizer.json").write_text("{}")
    folders = [tmp_path / "a", tmp_path / "b"]
    aligned = align_folders(folders, tmp_path / "out")
    assert aligned.after > aligned.before + 0.005
    old, new = open_model(tmp_path / "b"), open_model(tmp_path / "out" / "b")
    assert new.dtype == torch.bfloat16
    assert (tmp_path / "out" / "b" / "tokenizer.json").is_file()
    assert (old.model.embed_tokens.weight != new.model.embed_tokens.weight).any()
    assert new.lm_head.weight is new.model.embed_tokens.weight  # tied still
    got, expected = (outputs(m.float(), WORDS) for m in (new, old))
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(TaskgroveError, match="exists already"):
        align_folders(folders, tmp_path / "out")
    with pytest.raises(TaskgroveError, match="cannot be opened"):
        align_folders([tmp_path / "a", tmp_path / "c"], tmp_path / "other")
    with pytest.raises(TaskgroveError, match="called alike"):
        align_folders([tmp_path / "a"] * 2, tmp_path / "other")
