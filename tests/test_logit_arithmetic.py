"""Logit arithmetic and its weights: the papers' equations, and what must hold whatever the data."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reference.fused_step import alpha_on_a_grid
from taskgrove.composing import FUSIONS, Rule, fuse, fuse_step, match_kl, match_kl_multi
from taskgrove.composing.dynamic_alpha import candidates, centre_targets
from taskgrove.composing.logit_arithmetic import differences, kl, shifted
from taskgrove.composing.vocabulary import check_tokens, common_size
from taskgrove.errors import TaskgroveError

SIZES = st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(2, 40))  # T, B, V
SEEDS = st.integers(0, 10**6)


def drawn(seed, experts, batch, tokens, spread=2.0):
    rng = torch.Generator().manual_seed(seed)
    large, small = torch.randn(2, batch, tokens, generator=rng) * spread
    tuned = small + torch.randn(experts, batch, tokens, generator=rng)
    return large, small, tuned


# --- arithmetic -----------------------------------------------------------------------------------


@given(SIZES, SEEDS)
@settings(max_examples=30, deadline=None)
def test_fuse_is_the_equation(sizes, seed):
    large, small, experts = drawn(seed, *sizes)
    alpha = torch.rand(sizes[1], sizes[0])
    found = fuse(large, small, experts, alpha)
    for b in range(sizes[1]):
        moved = large[b] + sum(alpha[b, t] * (experts[t, b] - small[b]) for t in range(sizes[0]))
        torch.testing.assert_close(found[b], moved.log_softmax(-1), rtol=1e-4, atol=1e-5)
    one = fuse(large, small, experts, 0.7)
    torch.testing.assert_close(one, fuse(large, small, experts, torch.full((sizes[0],), 0.7)))
    torch.testing.assert_close(fuse(large, small, experts, 0.0), large.log_softmax(-1))


def test_proxy_tuning_of_the_small_model_by_itself_is_the_expert():
    _, small, experts = drawn(0, 1, 3, 11)
    torch.testing.assert_close(fuse(small, small, experts), experts[0].log_softmax(-1))


@given(SIZES, SEEDS)
@settings(max_examples=20, deadline=None)
def test_the_order_of_experts_and_constants_in_logits_do_not_matter(sizes, seed):
    large, small, experts = drawn(seed, *sizes)
    for rule in (Rule("axes"), Rule("joint"), Rule(alpha=0.5)):
        found, alpha = fuse_step(large, small, experts, rule)
        turned, back = fuse_step(large + 3, small - 5, experts.flip(0) + 7, rule)
        if rule.method == "joint" or rule.alpha:
            torch.testing.assert_close(found, turned, rtol=1e-3, atol=1e-3)
            torch.testing.assert_close(alpha, back.flip(1), rtol=1e-3, atol=2e-3)


def test_masked_tokens_stay_masked_and_nothing_becomes_nan():
    large, small, experts = drawn(1, 2, 3, 9)
    large[:, 2] = -torch.inf
    small[:, 3] = experts[:, :, 3] = -torch.inf
    for rule in FUSIONS.values():
        found, alpha = fuse_step(large, small, experts, rule)
        assert not found.isnan().any()
        assert not alpha.isnan().any()
        assert (found[:, 2] == -torch.inf).all()
        assert found[:, 3].isfinite().all()
        torch.testing.assert_close(found.exp().sum(-1), torch.ones(3))


def test_half_precision_logits_are_widened():
    large, small, experts = (x.bfloat16() for x in drawn(2, 2, 2, 50))
    found, _ = fuse_step(large, small, experts, Rule())
    assert found.dtype == torch.float32
    same, _ = fuse_step(large.float(), small.float(), experts.float(), Rule())
    assert torch.equal(found, same)


# --- one expert -----------------------------------------------------------------------------------


@given(SIZES, SEEDS, st.floats(0.05, 3))
@settings(max_examples=30, deadline=None)
def test_match_kl_is_the_grid(sizes, seed, spread):
    large, small, experts = drawn(seed, 1, *sizes[1:], spread)
    log_p, delta = large.log_softmax(-1), experts[0] - small
    target = kl(experts[0].log_softmax(-1), small.log_softmax(-1))
    found = match_kl(delta, log_p, target, tol=1e-4)
    for b in range(sizes[1]):
        twin = alpha_on_a_grid(delta[b], log_p[b].exp(), target[b].item())
        reached = [kl(shifted(log_p, delta[None], a), log_p)[b] for a in (found[b].item(), twin)]
        assert found[b].item() == pytest.approx(twin, abs=2e-3) or torch.allclose(
            *reached, rtol=1e-3, atol=1e-6
        )  # two alphas are as good where the divergence is flat in alpha


def test_the_shift_is_the_one_asked_for():
    large, small, experts = drawn(3, 1, 64, 200, spread=0.5)
    fused, alpha = fuse_step(large, small, experts, Rule(tol=1e-5))
    log_q = small.log_softmax(-1)
    target = kl(experts[0].log_softmax(-1), log_q)
    inside = (alpha[:, 0] < 2) & (alpha[:, 0] > 0)
    assert inside.float().mean() > 0.9
    moved = kl(fused, large.log_softmax(-1))
    torch.testing.assert_close(moved[inside], target[inside], rtol=1e-3, atol=1e-4)


def test_alpha_is_one_where_large_and_small_agree():
    _, small, experts = drawn(4, 1, 20, 30)
    _, alpha = fuse_step(small, small, experts, Rule(tol=1e-4))
    torch.testing.assert_close(alpha, torch.ones(20, 1), atol=1e-3, rtol=0)


def test_alpha_ends_at_hi_and_is_0_where_there_is_nothing_to_move():
    large, small, experts = drawn(5, 1, 4, 30)
    log_p, delta = large.log_softmax(-1), experts[0] - small
    assert torch.equal(
        match_kl(delta, log_p, torch.full((4,), 99.0), hi=1.5), torch.full((4,), 1.5)
    )
    assert torch.equal(match_kl(delta, log_p, torch.zeros(4)), torch.zeros(4))
    assert torch.equal(match_kl(torch.ones(4, 30), log_p, torch.ones(4)), torch.zeros(4))
    for rule in (Rule("axes"), Rule("random"), Rule("joint")):
        same = small.expand(3, -1, -1)
        fused, alpha = fuse_step(large, small, same, rule)  # all experts are the base
        assert torch.equal(alpha, torch.zeros(4, 3))
        torch.testing.assert_close(fused, log_p)


# --- several experts ------------------------------------------------------------------------------


def objective(large, small, experts, alpha, centroid):
    """The sum of squares, as the paper writes it."""
    log_p, log_q, log_t = (x.log_softmax(-1) for x in (large, small, experts))
    fused, total = fuse(large, small, experts, alpha), 0
    centre = experts.log_softmax(-1).mean(0).softmax(-1)
    for t in range(len(experts)):
        target = kl(log_t[t], log_q)
        total += (kl(fused, log_p) - target) ** 2
        if centroid:
            alone = match_kl(log_t[t] - log_q, log_p, target)
            single = fuse(large, small, experts[t : t + 1], alone[:, None])
            total += (kl(fused, single) - kl(centre.log(), log_t[t])) ** 2
    return total


@given(st.tuples(st.integers(2, 4), st.integers(1, 4), st.integers(3, 30)), SEEDS, st.booleans())
@settings(max_examples=20, deadline=None)
def test_the_best_candidate_is_taken(sizes, seed, centroid):
    large, small, experts = drawn(seed, *sizes)
    log_p, log_q, log_t = (x.log_softmax(-1) for x in (large, small, experts))
    targets = torch.stack([kl(each, log_q) for each in log_t])
    deltas = differences(log_q, log_t)
    alone = torch.stack([match_kl(deltas[t], log_p, targets[t]) for t in range(sizes[0])], 1)
    found = {}
    for method in ("axes", "random"):
        rule = Rule(method, centroid)
        _, alpha = fuse_step(large, small, experts, rule)
        direct = match_kl_multi(
            deltas, log_p, targets, method, centre_targets(log_t) if centroid else None
        )
        assert torch.equal(alpha, direct)
        found[method] = objective(large, small, experts, alpha, centroid)
        for weights in candidates(sizes[0], 0):
            tried = objective(large, small, experts, alone * weights, centroid)
            assert (found[method] <= tried * (1 + 1e-4) + 1e-5).all()
    assert (found["random"] <= found["axes"] * (1 + 1e-4) + 1e-5).all()


def test_joint_moves_by_the_mean_of_the_targets():
    large, small, experts = drawn(6, 3, 50, 60, spread=0.7)
    fused, alpha = fuse_step(large, small, experts, Rule("joint", tol=1e-5))
    assert torch.equal(alpha[:, 0], alpha[:, 2])
    log_q = small.log_softmax(-1)
    target = torch.stack([kl(each.log_softmax(-1), log_q) for each in experts]).mean(0)
    inside = alpha[:, 0] < 2
    assert inside.float().mean() > 0.9
    moved = kl(fused, large.log_softmax(-1))
    torch.testing.assert_close(moved[inside], target[inside], rtol=1e-3, atol=1e-4)


def test_one_of_many_equal_experts_is_one_expert():
    large, small, experts = drawn(7, 1, 20, 30)
    single, alpha = fuse_step(large, small, experts, Rule(tol=1e-5))
    many, parts = fuse_step(large, small, experts.expand(3, -1, -1), Rule("joint", tol=1e-5))
    inside = alpha[:, 0] < 2
    torch.testing.assert_close(single[inside], many[inside], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(3 * parts[inside, 0], alpha[inside, 0], rtol=1e-3, atol=1e-3)


def test_candidates_are_shares_and_the_same_each_time():
    found = candidates(4, 20)
    assert found.shape == (4 + 6 + 20, 4)
    torch.testing.assert_close(found.sum(1), torch.ones(30))
    assert torch.equal(found, candidates(4, 20))
    assert (found[:10] == 0).any(1).all()
    assert (found[10:] > 0).all()


# --- what is refused ------------------------------------------------------------------------------


def test_mistakes_are_one_sentence():
    with pytest.raises(TaskgroveError, match=r'"axis"; expected .* Did you mean "axes"'):
        Rule("axis")
    with pytest.raises(TaskgroveError, match=r"hi is 0.0; expected a number above 0"):
        Rule(hi=0.0)


def test_vocabularies_are_compared_token_by_token():
    tokens = {"a": 0, "b": 1, "c": 2}
    check_tokens({"large": tokens, "small": dict(reversed(tokens.items()))})
    with pytest.raises(
        TaskgroveError, match=r'2 tokens differ, such as "b" \(number 1 in large, n'
    ):
        check_tokens({"large": tokens, "e": {"a": 0, "b": 2, "c": 1}})
    with pytest.raises(TaskgroveError, match=r'"d" \(missing in large, number 3 in e\)'):
        check_tokens({"large": tokens, "e": {**tokens, "d": 3}})


def test_padding_of_the_vocabulary_is_cut_off():
    assert common_size({"large": 512, "small": 384}, 380) == 384
    assert common_size({"large": 9, "small": 9}, 0) == 9
    with pytest.raises(TaskgroveError, match="small has 384 logits, but the tokenizer has 400"):
        common_size({"large": 512, "small": 384}, 400)
    with pytest.raises(TaskgroveError, match=r"large 512, small 384"):
        common_size({"large": 512, "small": 384}, 0)
