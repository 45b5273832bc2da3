"""Bottleneck adapters and IA3: their formulas written out, where they stand, what they count."""

import pytest
import torch
from transformers import BertConfig, BertModel

from taskgrove.errors import TaskgroveError
from taskgrove.sharing.adapter import Adapter, norms
from taskgrove.sharing.ia3 import IA3
from taskgrove.sharing.sharing import Sharing
from test_sharing import TASKS, moved, of_sizes


class Block(torch.nn.Module):
    """A feed-forward block by itself."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.up, self.down = torch.nn.Linear(6, 12), torch.nn.Linear(12, 6)

    def forward(self, x):
        return self.down(torch.tanh(self.up(x)))


def bert():
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}
    config = BertConfig(num_hidden_layers=2, vocab_size=50, **sizes)
    return BertModel(config, add_pooling_layer=False).eval().requires_grad_(False)


class PostNorm(torch.nn.Module):
    """BertOutput with what `add` makes of h between the two norms, as Pfeiffer et al. draw it."""

    def __init__(self, plain, add):
        super().__init__()
        self.plain, self.add = plain, add

    def forward(self, inner, x):
        f, n = self.plain.dense(inner), self.plain.LayerNorm
        h = n(f + x)
        return n(self.add(h) + f + x)


def by_hand(adds):
    """A Bert whose layer n adds `adds[n](h)` after its feed-forward block."""
    model = bert()
    for layer, add in zip(model.encoder.layer, adds, strict=True):
        layer.output = PostNorm(layer.output, add)
    return model


def at(weights, task):
    """A bottleneck net of one task from its D, c, U and e."""
    D, c, U, e = (None if w is None else w[task].detach() for w in weights)
    return lambda h: ((h @ D.T + (0 if c is None else c)).relu() @ U) + (0 if e is None else e)


IDS = torch.arange(24).view(6, 4)


@pytest.mark.parametrize("bias", [True, False])
@torch.no_grad()
def test_in_post_norm_blocks_it_is_pfeiffers(bias):
    trunk = bert()
    before = trunk(input_ids=IDS)[0]
    sharing = Sharing(trunk, [("*", Adapter(reduction=4, bias=bias))], TASKS)
    parts, route = sharing.parts[0], of_sizes(1, 2, 3)
    ends = [f"encoder.layer.{n}.output.LayerNorm" for n in (0, 1)]
    assert {site: point.when for site, point in parts.points().items()} == dict.fromkeys(
        ends, "before"
    )
    with sharing.using(route):
        assert torch.equal(trunk(input_ids=IDS)[0], before)
    moved(sharing)
    with sharing.using(route):
        y = trunk(input_ids=IDS)[0]
    for n, task in enumerate(route.group_of.tolist()):
        each = [(parts.D[k], parts.c[k] if bias else None, parts.U[k], parts.e[k] if bias else None)
                for k in parts.D]  # fmt: skip
        wanted = by_hand([at(weights, task) for weights in each])(input_ids=IDS[n : n + 1])[0]
        torch.testing.assert_close(y[n : n + 1], wanted, atol=1e-5, rtol=1e-4)


def test_only_a_norm_of_its_own_makes_a_block_post_norm():
    def block(**modules):
        return torch.nn.ModuleDict({"down": torch.nn.Linear(12, 6), **modules})

    norm, linear = torch.nn.LayerNorm(6), torch.nn.Linear(6, 6)
    assert norms(block(n=norm), ["down"]) == {"down": ("n", norm)}
    assert norms(torch.nn.ModuleDict({"a": block(n=norm)}), ["a.down"])["a.down"][0] == "a.n"
    for others in (
        {},
        {"n": torch.nn.LayerNorm(12)},
        {"n": norm, "m": torch.nn.LayerNorm(6)},
        {"n": norm, "q": linear},
    ):
        assert norms(block(**others), ["down"]) == {}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("sizes", [(1, 2, 3), (2, 2, 2)])
def test_an_adapter_is_its_formula(bias, sizes):
    block, x = Block().requires_grad_(False), torch.randn(6, 5, 6)
    sharing = moved(Sharing(block, [("*", Adapter(reduction=2, bias=bias))], TASKS))
    parts, f = sharing.parts[0], block(x)
    route = of_sizes(*sizes)
    with sharing.using(route):
        y = block(x)
    for n, t in enumerate(route.group_of.tolist()):
        D, U = parts.D["down"][t], parts.U["down"][t]
        h = f[n] @ D.T + (parts.c["down"][t] if bias else 0)
        wanted = f[n] + h.relu() @ U + (parts.e["down"][t] if bias else 0)
        torch.testing.assert_close(y[n], wanted)
    y.sum().backward()  # what was added in place does not disturb the backward
    (gradient,) = (parts.D["down"].grad[0],)
    assert gradient.abs().sum() > 0


def test_adapters_stand_at_the_ends_of_blocks_and_are_counted():
    sharing = Sharing(bert(), [("*", Adapter(reduction=4))], TASKS)
    assert sharing.parts[0].names == [f"encoder.layer.{n}.output.dense" for n in (0, 1)]
    assert sum(p.numel() for p in sharing.parameters()) == 3 * 2 * (2 * 16 * 4 + 4 + 16)
    with pytest.raises(TaskgroveError, match="reduction 17 leaves nothing"):
        Sharing(bert(), [("*", Adapter(reduction=17))], TASKS)


def test_ia3_scales_keys_values_and_inner_activations():
    trunk, ids = bert(), torch.arange(24).view(6, 4)
    sharing = moved(Sharing(trunk, [("*", IA3())], TASKS))
    scale = sharing.parts[0].scale
    layers = [f"encoder/layer/{n}/{end}" for n in (0, 1) for end in
              ("attention/self/key", "attention/self/value", "output/dense")]  # fmt: skip
    assert list(scale) == layers
    assert [len(scale[name][0]) for name in layers] == [16, 16, 32] * 2
    with torch.no_grad(), sharing.using(of_sizes(1, 2, 3)):
        y = trunk(input_ids=ids)[0]
    for t, rows in enumerate((ids[:1], ids[1:3], ids[3:])):
        folded = bert()
        for name in layers:
            linear = folded.get_submodule(name.replace("/", "."))
            if name.endswith("dense"):
                linear.weight.mul_(scale[name][t].detach())
            else:
                linear.weight.mul_(scale[name][t].detach()[:, None])
                linear.bias.mul_(scale[name][t].detach())
        wanted = folded(input_ids=rows)[0]
        torch.testing.assert_close(y[[0, 1, 3][t] : [1, 3, 6][t]], wanted, atol=1e-5, rtol=1e-4)
