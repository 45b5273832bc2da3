"""MMoE, CGC and PLE on features, and cross-stitched networks."""

import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from reference.feature_experts import ple_row
from taskgrove.errors import TaskgroveError
from taskgrove.methods.features_experts import KINDS, features_experts
from taskgrove.methods.method import Job
from taskgrove.methods.start import start
from taskgrove.sharing.cross_stitch import CrossStitch, stitch
from taskgrove.sharing.mmoe import MMoE
from taskgrove.sharing.route import Route
from taskgrove.sharing.sharing import Sharing
from taskgrove.tasks.task_set import load_tasks
from taskgrove.training.budget import Budget
from taskgrove.training.options import Options

quick = settings(max_examples=20, deadline=None)


class Trunk(nn.Linear):
    """Features of a table."""

    width = 4


def of_sizes(*sizes, numbers=None):
    starts = tuple(sum(sizes[:n]) for n in range(len(sizes) + 1))
    return Route((), torch.arange(sum(sizes)), starts, numbers)


def shared(choice, tasks="ab"):
    trunk = Trunk(3, 4).double()
    sharing = Sharing(trunk, [("*", choice)], list(tasks)).double()
    for p in sharing.parameters():
        nn.init.normal_(p)
    return trunk, sharing


@quick
@given(st.integers(1, 3), st.integers(0, 2), st.integers(1, 3), st.integers(0, 99))
def test_experts_on_features_are_their_twin(count, own, levels, seed):
    torch.manual_seed(seed)
    trunk, sharing = shared(MMoE(count, own, levels))
    x = torch.randn(5, 3, dtype=torch.float64)
    with sharing.using(of_sizes(2, 3)):
        found = trunk(x)
    features = trunk(x)
    wanted = [ple_row(f, int(n >= 2), sharing.parts[0]) for n, f in enumerate(features)]
    torch.testing.assert_close(found, torch.stack(wanted))
    mine = [p for p in sharing.parameters() if p.requires_grad]
    found = torch.autograd.grad(found.sum(), mine)
    torch.testing.assert_close(found, torch.autograd.grad(torch.stack(wanted).sum(), mine))


def test_an_absent_tasks_experts_do_not_move():
    trunk, sharing = shared(MMoE(2, 1, 2))
    with sharing.using(of_sizes(3, numbers=(1,))):
        trunk(torch.randn(3, 3, dtype=torch.float64)).sum().backward()
    for stack in sharing.stacked().values():
        assert stack.grad[1].any()
        assert not stack.grad[0].any()


def test_nothing_to_mix_is_a_sentence():
    with pytest.raises(TaskgroveError, match="one or more shared experts and levels"):
        shared(MMoE(0))
    with pytest.raises(TaskgroveError, match="it fits no module of this trunk"):
        Sharing(nn.Linear(3, 4), [("*", MMoE())], ["a"])


def networks(tasks=3, depth=2):
    torch.manual_seed(0)
    layer = lambda: nn.Sequential(nn.Linear(4, 4), nn.Tanh())  # noqa: E731
    return [[layer() for _ in range(depth)] for _ in range(tasks)]


def test_stitched_networks_are_their_equations():
    nets = networks()
    stitched, x = CrossStitch(nets, same=0.8), torch.randn(5, 4)
    torch.testing.assert_close(stitched.alpha.sum(2), torch.ones(2, 3))
    nn.init.normal_(stitched.alpha)
    states = [x] * 3
    for depth in range(2):
        out = [net[depth](state) for net, state in zip(nets, states, strict=True)]
        alpha = stitched.alpha[depth]
        states = [sum(alpha[t, u] * out[u] for u in range(3)) for t in range(3)]
    torch.testing.assert_close(stitched(x), torch.stack(states))
    stitched(x)[0].sum().backward()
    assert all(p.grad is not None and p.grad.any() for net in nets for p in net[0].parameters())


def test_networks_that_are_not_stitched_are_apart():
    nets = networks()
    stitched, x = CrossStitch(nets, same=1.0), torch.randn(5, 4)
    alone = torch.stack([net[1](net[0](x)) for net in nets])
    torch.testing.assert_close(stitched(x), alone)
    even = torch.full((3, 3), 1 / 3)
    torch.testing.assert_close(stitch(alone, even), alone.mean(0).expand_as(alone))


@pytest.mark.parametrize("nets", [networks(1), [networks(1, 2)[0], networks(1, 3)[0]]])
def test_networks_that_cannot_be_stitched_are_named(nets):
    with pytest.raises(TaskgroveError, match=re.escape(str([len(net) for net in nets]))):
        CrossStitch(nets)


@pytest.mark.parametrize("name", list(KINDS))
def test_the_trunk_trains_with_its_experts(small_tasks, tmp_path, name):
    task_set, options = load_tasks(small_tasks), Options(batch_size=16, evaluations=1)
    place, _, pretrained = start(task_set, tmp_path / "start", seed=0, steps=1, options=options)
    limit = Budget(steps=2).in_passes(16)
    job = Job(task_set, place, limit, options, 0, tmp_path, pretrained)
    before = {n: p.clone() for n, p in job.model().trunks.named_parameters()}
    outcome = features_experts(job, name)
    after = dict(outcome.model.trunks.named_parameters())
    assert any(not torch.equal(after[n], p) for n, p in before.items())
    assert outcome.model.sharing.rules == [("*", KINDS[name])]
