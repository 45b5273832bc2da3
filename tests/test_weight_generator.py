"""Adapter weights as vectors, and generators of them."""

import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reference.weight_vectors import encoded, ridge
from taskgrove.composing.hidden_task_vector import hidden_task_vector
from taskgrove.errors import TaskgroveError
from taskgrove.sharing.weight_codec import codec_of, statistics
from taskgrove.sharing.weight_generator import (
    CHANNELS,
    ConditionalVAE,
    Sizes,
    fit,
    size_in_bytes,
)
from taskgrove.sharing.weight_ridge import weight_ridge
from tiny_language_models import tiny_model

SMALL = Sizes((8, 8, 8), latent=4, hidden=16)


def state(seed, rank=2):
    generator = torch.Generator().manual_seed(seed)
    return {"q.B": torch.randn(5, rank, generator=generator) * 3 + 1,
            "q.A": torch.randn(rank, 4, generator=generator)}  # fmt: skip


# --- codec ---------------------------------------------------------------------------------------


@given(st.integers(0, 99), st.integers(1, 3), st.booleans())
def test_decoding_gives_the_tensors_back(seed, rank, own):
    states = [state(seed, rank), state(seed + 1, rank)]
    codec = codec_of(states)
    w, stats = codec.encode(states[1], None if own else statistics(states))
    np.testing.assert_allclose(w.numpy(), encoded(states[1], stats), atol=1e-5)
    back = codec.decode(torch.cat([w, torch.ones(3)]), stats)  # with padding
    assert list(back) == ["q.A", "q.B"]
    for name, value in back.items():
        torch.testing.assert_close(value, states[1][name], atol=1e-5, rtol=1e-5)


def test_own_statistics_are_of_one_checkpoint_and_global_ones_of_all():
    states = [state(0), {name: 5 * w for name, w in state(0).items()}]
    codec = codec_of(states)
    (w, _), (large, _) = (codec.encode(each) for each in states)
    torch.testing.assert_close(w, large, atol=1e-5, rtol=1e-5)  # the scale went into statistics
    for part in w.split([8, 10]):
        assert abs(part.mean()) < 1e-6
        assert abs(part.std(correction=0) - 1) < 1e-6
    w, large = (codec.encode(each, statistics(states))[0] for each in states)
    every = torch.stack([w, large])
    assert (large - w).abs().max() > 1
    torch.testing.assert_close(every[:, :8].mean(), torch.zeros(()), atol=1e-6, rtol=0)


def test_a_tensor_of_zeros_stays_finite():
    zeros = {"B": torch.zeros(2, 3)}
    w, stats = codec_of([zeros]).encode(zeros)
    assert torch.equal(codec_of([zeros]).decode(w, stats)["B"], zeros["B"])


def test_other_ranks_and_targets_are_refused_by_name():
    with pytest.raises(TaskgroveError, match=re.escape("q.A (3, 4) not (2, 4)")):
        codec_of([state(0), state(0, rank=3)])
    with pytest.raises(TaskgroveError, match=r"q\.B missing not"):
        codec_of([state(0)]).encode({"q.A": state(0)["q.A"]})
    with pytest.raises(TaskgroveError, match="no checkpoint"):
        codec_of([])


# --- generators ----------------------------------------------------------------------------------


def two_tasks(each=8):
    """Checkpoints near one vector a task, and the tasks' vectors, which have much in common."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(2, 21, generator=generator)
    c = 10 + torch.randn(2, 6, generator=generator)
    w = centres.repeat_interleave(each, 0)
    return w + 0.05 * torch.randn(w.shape, generator=generator), c.repeat_interleave(each, 0)


def test_the_generator_gives_each_task_its_weights():
    w, c = two_tasks()
    losses = []
    before = torch.get_rng_state()
    vae = fit(w, c, SMALL, steps=120, rate=1e-2, progress=lambda _, loss: losses.append(loss))
    assert torch.equal(torch.get_rng_state(), before)
    assert losses[-1] < 0.3 * losses[0]
    drawn = [vae.generate(c[n], 4, seed=n) for n in (0, 8)]
    distance = [[(drawn[a] - w[8 * b : 8 * b + 8].mean(0)).square().mean() for b in (0, 1)]
                for a in (0, 1)]  # fmt: skip
    assert distance[0][0] < 0.1 * distance[0][1]
    assert distance[1][1] < 0.1 * distance[1][0]
    assert not torch.equal(drawn[0][0], drawn[0][1])  # another z
    assert torch.equal(drawn[0], vae.generate(c[0], 4, seed=0))


def test_the_loss_is_the_papers():
    torch.manual_seed(0)
    w, c = two_tasks()
    vae = ConditionalVAE(21, 6, SMALL)
    torch.manual_seed(1)
    w_hat, mu, v = vae(w, c)
    torch.manual_seed(1)
    found = vae.loss(w, c)
    kl = np.mean([
        sum(-0.5 * (1 + b - a * a - np.exp(b)) for a, b in zip(m, s, strict=True))
        for m, s in zip(mu.tolist(), v.tolist(), strict=True)
    ])  # fmt: skip
    assert found.item() == pytest.approx(((w_hat - w) ** 2).mean().item() + 0.005 * kl, rel=1e-5)


def test_the_authors_sizes():
    """Parameters of a generator of 2 x 4096 numbers for Florence-2's 768, counted by hand."""
    with torch.device("meta"):
        vae = ConditionalVAE(5000, 768)
    assert (vae.padding, vae.short) == (8192 - 5000, 2)
    pairs = list(zip((1, *CHANNELS[:-1]), CHANNELS, strict=True))
    down = sum(7 * a * b + b + 2 * b for a, b in pairs)
    back = list(zip(CHANNELS[::-1], (*CHANNELS[-2::-1], 8), strict=True))
    up = sum(7 * a * b + b + 2 * b for a, b in back) + 7 * 8 + 1
    linear = 16 * 256 + 256 + 2 * ((256 + 768) * 256 + 256) + (256 + 768) * 16 + 16
    assert sum(p.numel() for p in vae.parameters()) == down + up + linear
    small = ConditionalVAE(21, 6, SMALL)
    kept = sum(t.numel() * t.element_size() for t in small.state_dict().values())
    assert size_in_bytes(small) == kept


def test_rows_that_do_not_pair_are_refused():
    w, c = two_tasks()
    with pytest.raises(TaskgroveError, match="16 adapters and 15 task vectors"):
        fit(w, c[1:], SMALL, steps=1)


@given(st.integers(3, 9), st.integers(1, 12), st.integers(1, 3), st.integers(0, 99))
def test_ridge_is_its_twin(rows, cond, components, seed):
    random = np.random.default_rng(seed)
    w, c, new = (random.normal(size=size) for size in ((rows, 15), (rows, cond), cond))
    wanted = ridge(w, c, new, min(components, rows - 1), 0.7)
    asked = (torch.tensor(each, dtype=torch.float32) for each in (w, c))
    found = weight_ridge(*asked, min(components, rows - 1), 0.7)
    found = found.generate(torch.tensor(new, dtype=torch.float32))
    np.testing.assert_allclose(found.numpy(), wanted, atol=2e-3)


# --- task vectors --------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_vector_is_the_mean_of_the_last_real_tokens(side):
    model = tiny_model("gpt2", 20, seed=0, width=16).train()
    texts = [[5, 6, 7], [8, 9], [3]]
    alone = []
    for ids in texts:
        with torch.no_grad():
            hidden = model.eval()(torch.tensor([ids]), output_hidden_states=True).hidden_states
        alone.append(hidden[-1][0])
    model.train()
    padded = [[0] * (3 - len(t)) + t if side == "left" else t + [0] * (3 - len(t)) for t in texts]
    mask = torch.tensor(padded).ne(0).long()
    batch = {"input_ids": torch.tensor(padded), "attention_mask": mask,
             "position_ids": (mask.cumsum(1) - 1).clamp(min=0)}  # fmt: skip
    found = hidden_task_vector(model, [batch])
    torch.testing.assert_close(found, torch.stack([h[-1] for h in alone]).mean(0))
    found = hidden_task_vector(model, [batch], position="mean")
    torch.testing.assert_close(found, torch.stack([h.mean(0) for h in alone]).mean(0))
    assert model.training
    with pytest.raises(TaskgroveError, match="at least one example"):
        hidden_task_vector(model, [])
