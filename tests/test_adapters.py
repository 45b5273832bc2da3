"""Bottleneck adapters and IA3: their formulas written out, where they stand, what they count."""

import pytest
import torch
from transformers import BertConfig, BertModel

from taskgrove.errors import TaskgroveError
from taskgrove.sharing.adapter import Adapter
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
