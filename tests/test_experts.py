"""Mixtures of experts: twins, properties, what is done with trained ones, blocks of trunks."""

import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import (
    BertConfig,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    LlamaConfig,
    LlamaModel,
    ModernBertConfig,
    ModernBertModel,
    Qwen3Config,
    Qwen3Model,
    T5Config,
    T5EncoderModel,
)

from reference.expert_rows import attention_rows, expert_rows
from taskgrove.backbones import Vit
from taskgrove.errors import TaskgroveError
from taskgrove.sharing.chosen import top
from taskgrove.sharing.expert_attention import ExpertAttention
from taskgrove.sharing.experts import MixtureOfExperts, extend, innermost, mixed, prune
from taskgrove.sharing.feed_forward import feed_forwards
from taskgrove.sharing.route import Route
from taskgrove.sharing.routers import FixedRouter, TaskRouter, TokenRouter
from taskgrove.sharing.sharing import Sharing
from taskgrove.sharing.skills import Skills
from taskgrove.sharing.upcycle import Experts, usage

quick = settings(max_examples=30, deadline=None)


def of_sizes(*sizes, numbers=None):
    starts = tuple(sum(sizes[:n]) for n in range(len(sizes) + 1))
    return Route((), torch.arange(sum(sizes)), starts, numbers)


def mixture(tasks=2, experts=5, k=2, dim=4, hidden=6, renormalise=True, spread=1.0):
    torch.manual_seed(0)
    router = TaskRouter(tasks, experts, dim)
    nn.init.normal_(router.W, std=spread)
    return MixtureOfExperts(dim, hidden, experts, router, k, renormalise=renormalise)


def weights(mix):
    return mix.W1, mix.b1, mix.W2, mix.b2


# --- twins and properties ----------------------------------------------------------------------


@quick
@given(st.integers(1, 7), st.integers(1, 5), st.data(), st.booleans(), st.integers(0, 99))
def test_a_mixture_is_its_twin(positions, experts, data, renormalise, seed):
    torch.manual_seed(seed)
    k = data.draw(st.integers(1, experts))
    double = {"dtype": torch.float64, "requires_grad": True}
    x, logits = torch.randn(positions, 3, **double), torch.randn(positions, experts, **double)
    own = [torch.randn(experts, *size, **double) for size in [(4, 3), (4,), (3, 4), (3,)]]
    wanted = expert_rows(x, logits, k, *own, renormalise)
    found = mixed(x, top(logits, k, renormalise), *own)
    torch.testing.assert_close(found, wanted)
    signal, of = torch.randn_like(wanted), (x, logits, *own)
    some = {"allow_unused": True, "materialize_grads": True, "retain_graph": True}
    wanted = torch.autograd.grad(wanted, of, signal, **some)
    torch.testing.assert_close(torch.autograd.grad(found, of, signal, **some), wanted)
    back = lambda g: torch.autograd.grad(found, of, g, **some)  # noqa: E731
    torch.testing.assert_close(
        torch.vmap(back)(torch.stack([signal, 2 * signal]))[2][1], 2 * wanted[2]
    )


def test_all_experts_are_the_weighted_sum_of_all():
    mix = mixture(k=5, renormalise=False)
    x, route = torch.randn(3, 7, 4), of_sizes(1, 2)
    y, chosen = mix(x, route)
    each = torch.einsum("ptd,ehd->pteh", x, mix.W1) + mix.b1
    each = torch.einsum("pteh,edh->pted", nn.functional.gelu(each), mix.W2) + mix.b2
    gates = chosen.probabilities.view(3, 7, 5)
    torch.testing.assert_close(gates.sum(-1), torch.ones(3, 7))
    torch.testing.assert_close(y, torch.einsum("pte,pted->ptd", gates, each))


def test_turned_tokens_give_turned_outputs_and_tasks_have_their_own_routes():
    mix, x = mixture(), torch.randn(3, 7, 4)
    y = mix(x, of_sizes(1, 2))[0]
    order = torch.randperm(7, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(mix(x[:, order], of_sizes(1, 2))[0], y[:, order])
    torch.testing.assert_close(mix(x[1:], of_sizes(2, numbers=(1,)))[0], y[1:])
    assert not torch.allclose(mix(x, of_sizes(3, numbers=(0,)))[0][1:], y[1:])


def test_experts_that_nobody_visits_get_no_gradient():
    mix, x = mixture(experts=9), torch.randn(1, 2, 4)
    y, chosen = mix(x, of_sizes(1, numbers=(1,)))
    y.sum().backward()
    used = torch.tensor(chosen.route.sizes) > 0
    assert 0 < used.sum() < 9
    for p in weights(mix):
        moved = p.grad.flatten(1).abs().sum(1) > 0
        assert torch.equal(moved, used)
    assert not mix.router.W.grad[0].any()
    assert mix.router.W.grad[1].any()
    assert mix(x[:0], of_sizes(0))[0].shape == (0, 2, 4)


@pytest.mark.parametrize("router", ["task", "fixed"])
def test_attention_of_experts_is_its_twin(router):
    torch.manual_seed(0)
    by = TaskRouter(2, 5, 6) if router == "task" else FixedRouter([[0, 2, 4], [1, 2]], 5)
    attention = ExpertAttention(6, 3, 5, by, 3)
    if router == "task":
        nn.init.normal_(by.W)
    x = torch.randn(3, 4, 6)
    y, chosen = attention(x, of_sizes(2, 1))
    if router == "fixed":
        assert chosen.probabilities[0].tolist() == pytest.approx([1 / 3, 0, 1 / 3, 0, 1 / 3])
        assert chosen.probabilities[-1].tolist() == [0, 0.5, 0.5, 0, 0]
    args = attention.kv, attention.Wq, attention.Wo
    gates = chosen.probabilities.log().view(3, 4, 5)
    for entry in range(3):
        k = 3 if router == "task" or entry < 2 else 2
        wanted = attention_rows(x[entry], gates[entry], k, *args)
        torch.testing.assert_close(y[entry], wanted)


def test_half_precision_is_near():
    mix, x, route = mixture(), torch.randn(3, 7, 4), of_sizes(1, 2)
    exact = mix(x, route)[0]
    with torch.autocast("cpu", torch.bfloat16):
        half = mix(x, route)[0]
    assert half.dtype == torch.bfloat16
    half.float().sum().backward()
    torch.testing.assert_close(half.float(), exact, atol=0.05, rtol=0.05)


# --- a trained mixture ---------------------------------------------------------------------------


def test_new_experts_leave_old_tasks_bit_for_bit():
    mix, x = mixture(renormalise=False), torch.randn(5, 7, 4)
    old = mix(x[:3], of_sizes(1, 2))[0].clone()
    more = extend(mix, 2, experts=3)
    assert torch.equal(more(x[:3], of_sizes(1, 2))[0], old)
    y, chosen = more(x, of_sizes(1, 2, 2))
    assert torch.equal(y[:3], old)
    assert chosen.probabilities.shape == (14, 8)
    y.sum().backward()
    moved = {name for name, p in more.named_parameters() if p.grad is not None and p.grad.any()}
    assert moved == {"W1", "b1", "W2", "b2", "router.W"}
    again = extend(more, 3, experts=1)
    assert torch.equal(again(x, of_sizes(1, 2, 2))[0], y)
    assert again(x, of_sizes(1, 1, 3, numbers=(1, 2, 3)))[1].probabilities.shape[1] == 9
    assert innermost(again) is mix
    with pytest.raises(TaskgroveError, match="must come after"):
        more(x[:3], of_sizes(1, 2, numbers=(2, 0)))


def test_pruning_keeps_outputs_where_nothing_of_weight_goes():
    mix, x = mixture(tasks=3, experts=20, spread=3.0), torch.randn(4, 3, 4)
    y, chosen = mix(x, of_sizes(4, numbers=(1,)))
    gates = chosen.route.weights.detach()
    mass = torch.zeros(20).index_add_(0, chosen.route.group_of, gates)
    whole = prune(mix, 1, mass, keep=1 - 1e-6)
    visited = int((mass > 0).sum())
    assert whole.experts == visited < 20
    torch.testing.assert_close(whole(x, of_sizes(4))[0], y)
    small = prune(mix, 1, mass, keep=0.6)
    assert 1 <= small.experts < visited
    assert not torch.allclose(small(x, of_sizes(4))[0], y)
    assert mass[mass.argsort(descending=True)][: small.experts].sum() >= 0.6 * mass.sum()
    with pytest.raises(TaskgroveError, match="a router a task"):
        prune(MixtureOfExperts(4, 6, 3, TokenRouter(3, 4)), 0, torch.ones(3))


@pytest.mark.parametrize("k", [0, 6])
def test_more_active_than_there_are_is_a_sentence(k):
    with pytest.raises(TaskgroveError, match=f"{k} active of 5 experts: give 1 to 5"):
        MixtureOfExperts(4, 6, 5, TokenRouter(5, 4), k)
    with pytest.raises(TaskgroveError, match=f"{k} active of 5 experts"):
        ExpertAttention(4, 6, 5, TokenRouter(5, 4), k)
    with pytest.raises(TaskgroveError, match=f"{k} active of 5 experts"):
        Sharing(Vit(16, 1, 2), [("*", Experts(5, k))], ["a"])


# --- the blocks of a trunk -----------------------------------------------------------------------

SIZE = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 30}
T5 = {"d_model": 16, "num_layers": 2, "num_heads": 4, "d_kv": 8, "vocab_size": 30, "d_ff": 40}
TRUNKS = {
    "vit": lambda: Vit(16, 2, 2),
    "bert": lambda: BertModel(BertConfig(**SIZE, intermediate_size=40)),
    "distilbert": lambda: DistilBertModel(
        DistilBertConfig(dim=16, n_layers=2, n_heads=2, hidden_dim=40, vocab_size=30)
    ),
    "llama": lambda: LlamaModel(LlamaConfig(**SIZE, intermediate_size=40, num_key_value_heads=1)),
    "qwen3": lambda: Qwen3Model(  # its attention is wider than the model
        Qwen3Config(**SIZE, intermediate_size=40, head_dim=16, num_key_value_heads=1)
    ),
    "t5": lambda: T5EncoderModel(T5Config(**T5)),
    "gated t5": lambda: T5EncoderModel(T5Config(**T5, feed_forward_proj="gated-gelu")),
    "modernbert": lambda: ModernBertModel(  # gate and hidden from one layer
        ModernBertConfig(**SIZE, intermediate_size=40, pad_token_id=0, cls_token_id=1,
                         bos_token_id=1, eos_token_id=2, sep_token_id=2)
    ),
}  # fmt: skip


def forward(trunk):
    if isinstance(trunk, Vit):
        images = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
        return lambda rows: trunk({"image": images[rows]})
    ids = torch.randint(3, 30, (4, 5), generator=torch.Generator().manual_seed(1))
    ids[1, 3:] = 0
    return lambda rows: trunk(input_ids=ids[rows], attention_mask=(ids[rows] > 0).long())[0]


@pytest.mark.parametrize("name", list(TRUNKS))
def test_blocks_of_any_transformer_become_experts(name):
    torch.manual_seed(0)
    trunk = TRUNKS[name]().eval().requires_grad_(False)
    blocks = feed_forwards(trunk)
    assert len(blocks) == 2
    gated = name in {"llama", "qwen3", "gated t5"}
    assert all(len(block.ups) == 1 + gated for block in blocks)
    assert all(block.joined == (name == "modernbert") for block in blocks)
    assert all(block.hidden == (64 if name == "vit" else 40) for block in blocks)
    run, names = forward(trunk), list(trunk.state_dict())
    base = run(slice(None))
    for choice in (Experts(noise=0.0), Experts(3, 3, "token", noise=0.0), Skills(2)):
        sharing = Sharing(trunk, [("*", choice)], ["a", "b"])
        assert list(trunk.state_dict()) == names
        with sharing.using(of_sizes(1, 3)):
            torch.testing.assert_close(run(slice(None)), base, atol=1e-5, rtol=1e-4)
        for p in sharing.parameters():
            p.data += torch.randn_like(p) * 0.1
        with sharing.using(of_sizes(1, 3)):
            both = run(slice(None))
        with sharing.using(of_sizes(3, numbers=(1,))):
            torch.testing.assert_close(run(slice(1, 4)), both[1:], atol=1e-5, rtol=1e-4)
        assert not torch.allclose(both, base, atol=1e-3)
        sharing.detach()
        assert torch.equal(run(slice(None)), base)


class Normed(nn.Module):
    """Its hidden numbers have a norm of their own."""

    def __init__(self):
        super().__init__()
        self.up, self.norm, self.down = nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 4)


def test_where_there_is_no_block_it_says_so():
    for trunk in (Normed(), nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))):
        with pytest.raises(TaskgroveError, match="it fits no module of this trunk"):
            Sharing(trunk, [("*", Experts())], ["a"])


def test_the_losses_of_routers_reach_the_routers_and_shares_follow():
    torch.manual_seed(0)
    trunk = Vit(16, 2, 2).requires_grad_(False)
    images = {"image": torch.randn(4, 3, 8, 8)}
    for loss, sign in (("mutual_information", -1), ("switch_balance", 1)):
        sharing = Sharing(trunk, [("*", Experts(loss=loss, weight=1.0, decay=0.5))], ["a", "b"])
        parts = sharing.parts[0]
        for router in parts.router.values():
            nn.init.normal_(router, std=3.0)
        with sharing.using(of_sizes(4, numbers=(1,))):
            trunk(images)
        found = sharing.loss()
        assert found * sign > 0
        found.backward()
        for router in parts.router.values():
            assert router.grad[1].any()
            assert not router.grad[0].any()
        for use in usage(parts).values():
            assert torch.equal(use[0], torch.full((4,), 0.25))
            torch.testing.assert_close(use.sum(1), torch.ones(2))
            assert use[1].max() > 0.25
        sharing.eval()
        with sharing.using(of_sizes(4, numbers=(1,))):
            trunk(images)
        assert sharing.loss() is None


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        (Skills(2, [[0], [0]]), "no task uses the skill 1"),
        (Skills(2, [[0], [0, 2]]), "task 1 has the skills [0, 2]"),
        (Skills(1, [[0], []], own=False), "task 1 has the skills []"),
    ],
)
def test_settings_that_cannot_be_are_one_sentence(choice, words):
    with pytest.raises(TaskgroveError, match=re.escape(words)):
        Sharing(Vit(16, 1, 2), [("*", choice)], ["a", "b"])


def test_a_skill_that_a_task_does_not_have_is_not_run():
    """Changing it changes nothing, bit for bit; changing its own does; unequal numbers too."""
    torch.manual_seed(0)
    trunk = Vit(16, 2, 2).requires_grad_(False)
    images = {"image": torch.randn(4, 3, 8, 8)}
    sharing = Sharing(trunk, [("*", Skills(3, [[0], [1, 2]], own=False))], ["a", "b"])
    parts = sharing.parts[0]

    def run():
        with sharing.using(of_sizes(2, 2)):
            return trunk(images)

    with torch.no_grad():
        for stack in parts.common.values():
            stack += 0.1 * torch.randn_like(stack)
    before = run()
    before[:2].sum().backward()
    for stack in parts.common.values():
        assert stack.grad[0].any()
        assert not stack.grad[1:].any()
    with torch.no_grad():
        for stack in parts.common.values():
            stack[2] += 0.1 * torch.randn_like(stack[2])
    after = run()
    assert torch.equal(after[:2], before[:2])
    assert not torch.equal(after[2:], before[2:])
