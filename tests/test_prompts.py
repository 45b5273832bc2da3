"""Prompts among the tokens of Vit, BERT and transformers' ViT: what layers see, what is refused."""

import pytest
import torch
from transformers import BertConfig, BertModel, LlamaConfig, LlamaModel, ViTConfig, ViTModel

from taskgrove.backbones import Vit
from taskgrove.errors import TaskgroveError
from taskgrove.sharing.prompts import Prompts, stack
from taskgrove.sharing.sharing import Sharing
from test_sharing import TASKS, images, moved, of_sizes, small_trunk

SIZES = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}


def bert(attention="sdpa"):
    torch.manual_seed(0)
    config = BertConfig(num_hidden_layers=2, vocab_size=50, attn_implementation=attention, **SIZES)
    return BertModel(config, add_pooling_layer=False).eval().requires_grad_(False)


def prompted(trunk, choice):
    return moved(Sharing(trunk, [("*", choice)], TASKS)).eval()


@pytest.mark.parametrize("deep", [False, True])
def test_a_vit_attends_to_its_tasks_prompts(deep):
    """The layers run by hand over [prompts, tokens]."""
    trunk = small_trunk()
    sharing = prompted(trunk, Prompts(length=3, deep=deep))
    P, x = sharing.parts[0].P.detach(), images(6)
    assert P.shape == (3, 2 if deep else 1, 3, 16)
    with torch.no_grad(), sharing.using(of_sizes(1, 2, 3)):
        y = trunk(x)
    seen = []
    hook = trunk.blocks[0].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    trunk(x)
    hook.remove()
    for n, t in enumerate((0, 1, 1, 2, 2, 2)):
        tokens = torch.cat([P[t, :1].reshape(1, 3, 16), seen[0][n : n + 1]], 1)
        for layer, block in enumerate(trunk.blocks):
            if deep:
                tokens = torch.cat([P[t, layer : layer + 1], tokens[:, 3:]], 1)
            tokens = block(tokens)
        wanted = trunk.norm(tokens[:, 3:]).mean(1)
        torch.testing.assert_close(y[n : n + 1], wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("deep", [False, True])
def test_masks_hide_padding_and_show_prompts(attention, deep):
    trunk = bert(attention)
    sharing = prompted(trunk, Prompts(length=3, deep=deep))
    ids = torch.randint(1, 50, (3, 6), generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[1] * 6, [1] * 4 + [0] * 2, [1] * 2 + [0] * 4])
    with torch.no_grad(), sharing.using(of_sizes(1, 1, 1)):
        y = trunk(input_ids=ids, attention_mask=mask)[0]
    assert y.shape == (3, 6, 16)
    for n, length in enumerate((6, 4, 2)):
        with torch.no_grad(), sharing.using(of_sizes(1, numbers=(n,))):
            alone = trunk(input_ids=ids[n : n + 1, :length])[0]
        torch.testing.assert_close(y[n, :length], alone[0], atol=1e-5, rtol=1e-4)
    bare = bert(attention)(input_ids=ids, attention_mask=mask)[0]
    assert not torch.allclose(bare[0], y[0])


def test_a_vit_of_transformers():
    torch.manual_seed(0)
    config = ViTConfig(num_hidden_layers=2, image_size=8, patch_size=4, **SIZES)
    trunk = ViTModel(config, add_pooling_layer=False).eval().requires_grad_(False)
    sharing = prompted(trunk, Prompts(length=2))
    with torch.no_grad(), sharing.using(of_sizes(1, 2, 3)):
        y = trunk(pixel_values=images(6)["image"])[0]
    assert y.shape == (6, 5, 16)
    with torch.no_grad(), sharing.using(of_sizes(3, numbers=(2,))):
        alone = trunk(pixel_values=images(6)["image"][3:])[0]
    torch.testing.assert_close(y[3:], alone, atol=1e-5, rtol=1e-4)


def test_the_largest_stack_of_layers_is_found():
    assert stack(small_trunk()) == ["blocks.0", "blocks.1"]
    assert stack(bert()) == ["encoder.layer.0", "encoder.layer.1"]
    assert stack(torch.nn.Sequential(torch.nn.Linear(4, 4))) == []


def test_what_prompts_cannot_do_is_said():
    torch.manual_seed(0)
    config = LlamaConfig(num_hidden_layers=2, vocab_size=50, num_key_value_heads=2, **SIZES)
    trunk = LlamaModel(config).requires_grad_(False)
    sharing = Sharing(trunk, [("*", Prompts())], TASKS)
    with (
        pytest.raises(TaskgroveError, match="rotary positions"),
        sharing.using(of_sizes(1, 1)),
    ):
        trunk(input_ids=torch.ones(2, 3, dtype=torch.long))
    with pytest.raises(TaskgroveError, match="0 prompts"):
        Sharing(Vit(16, 2, 2), [("*", Prompts(length=0))], TASKS)
