"""Routers, what they choose, and their losses."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from taskgrove.errors import TaskgroveError
from taskgrove.sharing.chosen import combine, spread, top
from taskgrove.sharing.huge import LEAST, huge
from taskgrove.sharing.route import Route
from taskgrove.sharing.route_losses import (
    blended,
    cv_squared,
    mutual_information,
    shares,
    switch_balance,
    z_loss,
)
from taskgrove.sharing.routers import FixedRouter, PromptRouter, TaskRouter, TokenRouter

quick = settings(max_examples=40, deadline=None)


def of_sizes(*sizes, numbers=None):
    starts = tuple(sum(sizes[:n]) for n in range(len(sizes) + 1))
    return Route((), torch.arange(sum(sizes)), starts, numbers)


@quick
@given(st.integers(1, 9), st.integers(1, 6), st.data(), st.integers(0, 99))
def test_gates_and_rows_go_there_and_back(positions, experts, data, seed):
    torch.manual_seed(seed)
    k = data.draw(st.integers(1, experts))
    logits = torch.randn(positions, experts, dtype=torch.float64)
    x = torch.randn(positions, 3, dtype=torch.float64)
    chosen = top(logits, k, renormalise=True)
    entries = spread(x, chosen)
    assert torch.equal(entries, x[chosen.route.rows])
    assert sorted(chosen.places.flatten().tolist()) == list(range(positions * k))
    own = torch.arange(positions).unsqueeze(1).expand(-1, k)
    assert torch.equal(chosen.route.rows[chosen.places], own)
    torch.testing.assert_close(combine(entries, chosen), x)  # gates sum to 1
    plain = top(logits, k)
    held = plain.probabilities.topk(k).values.sum(1, keepdim=True)
    torch.testing.assert_close(combine(spread(x, plain), plain), held * x)


def test_rows_and_gates_have_the_gradients_of_plain_indexing():
    torch.manual_seed(0)
    double = {"dtype": torch.float64, "requires_grad": True}
    x, logits, B = (torch.randn(*s, **double) for s in ((5, 3), (5, 4), (10, 3)))

    def ours(x, logits, B):
        chosen = top(logits, 2)
        return combine(spread(x, chosen) * B, chosen)

    def plain(x, logits, B):
        chosen = top(logits, 2)
        return chosen.route.combine(chosen.route.spread(x) * B, 5)

    torch.testing.assert_close(ours(x, logits, B), plain(x, logits, B))
    signal = torch.randn(5, 3, dtype=torch.float64)
    found, wanted = (torch.autograd.grad(f(x, logits, B), (x, logits, B), signal)
                     for f in (ours, plain))  # fmt: skip
    torch.testing.assert_close(found, wanted)
    assert torch.autograd.gradcheck(ours, (x, logits, B))


def test_routers_read_what_they_say():
    torch.manual_seed(0)
    x, route = torch.randn(3, 4, 6), of_sizes(1, 2)
    token, task, prompt = TokenRouter(5, 6), TaskRouter(2, 5, 6), PromptRouter(5, 6, prompt=2)
    torch.testing.assert_close(token(x, route), x @ token.W[0].T)
    wanted = torch.cat([x[:1] @ task.W[0].T, x[1:] @ task.W[1].T])
    torch.testing.assert_close(task(x, route), wanted)
    torch.testing.assert_close(task(x[1:], of_sizes(2, numbers=(1,))), wanted[1:])
    found = prompt(x, route)
    torch.testing.assert_close(found, (x[:, :2].mean(1) @ prompt.W[0].T)[:, None].expand(3, 4, 5))
    other = x.clone()
    other[:, 2:] = 0  # behind the prompt
    assert torch.equal(prompt(other, route), found)
    assert not torch.equal(PromptRouter(5, 6)(other, route), PromptRouter(5, 6)(x, route))


def test_a_start_does_not_send_all_tokens_to_the_first_experts():
    torch.manual_seed(0)
    logits = TokenRouter(8, 16)(torch.randn(4, 50, 16), of_sizes(4)).flatten(0, 1)
    assert min(top(logits, 2).route.sizes) > 0
    torch.testing.assert_close(logits.softmax(-1), torch.full((200, 8), 1 / 8), atol=0.02, rtol=0)


def test_a_table_fixes_the_experts():
    router = FixedRouter([[0, 2], [1]], 3)
    chosen = router.choose(2, of_sizes(1, 1))
    assert chosen.probabilities.tolist() == [[0.5, 0, 0.5]] * 2 + [[0, 1, 0]] * 2
    x = torch.randn(4, 3)
    torch.testing.assert_close(combine(spread(x, chosen), chosen), x)
    for table in ([[0], []], [[0, 0]], [[0, 3]]):
        with pytest.raises(TaskgroveError, match="each once"):
            FixedRouter(table, 3)


# --- losses --------------------------------------------------------------------------------------


@quick
@given(st.integers(1, 5), st.integers(1, 6), st.integers(0, 99))
def test_mutual_information_reaches_its_bounds(tasks, experts, seed):
    generator = torch.Generator().manual_seed(seed)
    same = torch.rand(experts, generator=generator, dtype=torch.float64).expand(tasks, -1)
    assert mutual_information(same).item() == pytest.approx(0, abs=1e-12)
    one = torch.eye(experts, dtype=torch.float64)  # each task one expert of its own
    assert mutual_information(one).item() == pytest.approx(math.log(experts))
    any_ = torch.rand(tasks, experts, generator=generator, dtype=torch.float64)
    found = mutual_information(any_).item()
    assert -1e-12 <= found <= math.log(min(tasks, experts)) + 1e-12
    P = any_ / any_.sum(1, keepdim=True)
    joint = P / tasks
    wanted = joint * (joint / joint.sum(0) * tasks).log()  # P(t, e) log(P(t, e) / (P(t) P(e)))
    assert found == pytest.approx(wanted.sum().item())


def test_shares_follow_tasks_and_only_the_new_part_takes_a_gradient():
    probabilities = torch.rand(6, 3).softmax(1).requires_grad_()
    route = of_sizes(1, 2, 0, numbers=(3, 1, 0))
    fresh = shares(probabilities, route)
    torch.testing.assert_close(fresh[0], probabilities[:2].mean(0))
    torch.testing.assert_close(fresh[1], probabilities[2:].mean(0))
    assert not fresh[2].any()
    P = torch.full((4, 3), 1 / 3)
    moved = blended(P, fresh[:2], torch.tensor([3, 1]), 0.75)
    torch.testing.assert_close(moved[[3, 1]], 0.75 / 3 + 0.25 * fresh[:2])
    assert torch.equal(moved[[0, 2]], P[[0, 2]])
    (found,) = torch.autograd.grad(moved[3, 0], fresh)
    assert found.tolist() == [[1, 0, 0], [0, 0, 0], [0, 0, 0]]


def test_balance_losses_have_their_values():
    even = top(torch.eye(4) * 5, 1)
    assert switch_balance(even).item() == pytest.approx(1)
    one = top(torch.tensor([[50.0, 0, 0, 0]] * 4), 1)
    assert switch_balance(one).item() == pytest.approx(4)
    logits = torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    wanted = (math.log(2) ** 2 + (1 + math.log(2)) ** 2) / 2
    assert z_loss(logits).item() == pytest.approx(wanted)
    assert cv_squared(torch.full((5,), 3.0)).item() == 0
    assert cv_squared(torch.tensor([1.0, 3.0])).item() == pytest.approx(0.25)


def test_large_pages_hold_what_is_written():
    x = huge(torch.empty(LEAST // 4 + 3))
    assert torch.equal(x.fill_(2.0), torch.full_like(x, 2.0))
