"""The balancing step: every source and every way to apply, against task gradients written out."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from reference.whole_step import balanced, task_gradients
from taskgrove.balancing import BALANCERS, Balancer
from taskgrove.errors import TaskgroveError

SHARE = torch.tensor([0.4, 0.3, 0.2, 0.1])
WHOLE = SHARE.double() / SHARE.double().sum()


def odd(M, share):
    """A weighting without any symmetry: unlike weights, one of them negative."""
    u = (M.diagonal() + M.diagonal().max() / 100).rsqrt()
    w = share * (1 + (M * u[:, None] * u).sum(1)) * u / u.sum() * len(u)
    return w - 0.5 * torch.eye(len(u), dtype=w.dtype)[0]


class Words(nn.Module):
    """An embedding with padding, and a layer that is read twice."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(11, 6, padding_idx=0)
        self.twice = nn.Linear(6, 6, bias=False)

    def forward(self, x):
        h = self.table(x)
        h = h + self.twice(h).tanh()
        return (h + self.twice(h).tanh()).mean(1)


class Checkpointed(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(5, 8), nn.Linear(8, 6)

    def forward(self, x):
        return checkpoint(lambda v: self.b(self.a(v).tanh()).tanh(), x, use_reentrant=False)


class Transposed(nn.Module):
    """A weight stored the other way round, and one tied to it."""

    def __init__(self):
        super().__init__()
        self.W = nn.Parameter(torch.randn(5, 6) / 3)

    def forward(self, x):
        return ((x @ self.W).tanh() @ self.W.T).tanh() @ self.W


def trunk_of(name):
    """A trunk with 6 outputs, and its input."""
    if name == "perceptron":
        layers = [nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 6), nn.LayerNorm(6), nn.Tanh()]
        return nn.Sequential(*layers), torch.randn(4, 5)
    if name == "tall":  # more rows than width
        return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 6, bias=False)), torch.randn(
            64, 5
        )
    if name == "no bias":
        layers = [nn.Linear(5, 8, bias=False), nn.Tanh(), nn.Linear(8, 6, bias=False)]
        return nn.Sequential(*layers), torch.randn(3, 5)
    if name == "convolution":
        layers = [
            nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.GELU(), nn.MaxPool2d(2),
            nn.Conv2d(8, 6, 3, stride=2), nn.BatchNorm2d(6), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        ]  # fmt: skip
        return nn.Sequential(*layers), torch.randn(8, 3, 8, 8)
    if name == "words":
        return Words(), torch.randint(0, 11, (4, 7))
    if name == "compiled":
        plain = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 6))
        return torch.compile(plain, backend="aot_eager"), torch.randn(4, 5)
    other = {"checkpointed": Checkpointed, "transposed": Transposed}
    return other[name](), torch.randn(4, 5)


TRUNKS = (
    "perceptron", "tall", "no bias", "convolution", "words", "compiled", "checkpointed",
    "transposed",
)  # fmt: skip


def one_input(trunk, heads, x):
    z = trunk(x)
    return [head(z).square().mean() * (t + 1) for t, head in enumerate(heads)]


def own_rows(trunk, heads, x):
    return [head(trunk(x.roll(t, 1))).square().mean() * (t + 1) for t, head in enumerate(heads)]


def two_tables(trunk, heads, x):
    z, y = trunk(x), trunk(x.roll(1, 1))
    return [
        heads[0](z).square().mean(), heads[1](z).sin().mean(), heads[2](y).square().mean() * 3,
        heads[3](y[:2]).square().mean(),
    ]  # fmt: skip


def tied(trunk, heads, x):
    """The last task reads a shared parameter after tasks have met."""
    last = next(p for p in trunk.parameters() if p.dim() > 1)
    z = trunk(x)
    first = [head(z).square().mean() for head in heads[:3]]
    return [*first, (z * last.flatten()[:6]).square().mean()]


def outputs_of_one(trunk, heads, x):
    """All losses are outputs of one node, as after unbind."""
    z = trunk(x)
    return list(torch.stack([head(z).square().mean() for head in heads]).unbind())


KINDS = (one_input, own_rows, two_tables, tied, outputs_of_one)


def setting(name, kind):
    torch.manual_seed(1)
    trunk, x = trunk_of(name)
    heads = nn.ModuleList(nn.Linear(6, 2) for _ in range(4))
    return trunk, heads, x, kind(trunk, heads, x)


def of(parameters):
    return torch.cat([(p * 0 if p.grad is None else p.grad).detach().flatten() for p in parameters])


def near(a, b, tolerance=1e-4):
    return (a.double() - b.double()).abs().max() <= tolerance * b.double().abs().max() + 1e-12


def check(trunk, heads, d, heads_before):
    assert near(of(trunk.parameters()), d)
    assert near(of(heads.parameters()), heads_before)


def mean_of_heads(heads, losses):
    total = (WHOLE.float() * torch.stack(losses)).sum()
    found = torch.autograd.grad(
        total, list(heads.parameters()), retain_graph=True, allow_unused=True
    )
    pairs = zip(heads.parameters(), found, strict=True)
    return torch.cat([(p * 0 if g is None else g).detach().flatten() for p, g in pairs])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", TRUNKS)
@pytest.mark.parametrize("way", ["rows", "backward", "reduced", "implicit", "second step"])
def test_a_step_is_what_task_gradients_written_out_say(name, kind, way):
    trunk, heads, x, losses = setting(name, kind)
    if kind is outputs_of_one and way in ("implicit", "backward", "second step"):
        pytest.skip("heads that cannot be told apart: shared, or refused, see below")
    shared, own = list(trunk.parameters()), mean_of_heads(heads, losses)
    d, M = balanced(losses, shared, WHOLE, odd)
    more = {
        "backward": {"backward": lambda total: total.backward()},
        "reduced": {"all_reduce": lambda tensor: tensor},
    }.get(way, {})
    every = 2 if way == "second step" else 1
    balancer = Balancer(
        odd, 4, shared=None if way == "implicit" else shared, own=list(heads.parameters()),
        every=every,
    )  # fmt: skip
    done = balancer.step(losses, share=SHARE, **more)
    assert near(done.gramian, M)
    assert not done.fallback
    check(trunk, heads, d, own)
    if way == "second step":
        trunk.zero_grad()
        heads.zero_grad()
        again = balancer.step(kind(trunk, heads, x), share=SHARE)
        assert again.gramian is None
        assert torch.allclose(again.weights, done.weights)
        check(trunk, heads, d, own)


def test_heads_that_one_backward_cannot_tell_apart_are_refused():
    trunk, _, _, losses = setting("perceptron", outputs_of_one)
    with pytest.raises(ValueError, match="cannot tell it from the shared ones"):
        Balancer(odd, 4, shared=trunk).step(losses, backward=lambda total: total.backward())


@pytest.mark.parametrize("kind", [one_input, own_rows, two_tables])
@pytest.mark.parametrize("name", TRUNKS)
def test_groups_are_balanced_each_by_itself(name, kind):
    trunk, _, _, losses = setting(name, kind)
    shared = list(trunk.parameters())
    groups = {"first": shared[:1], "others": shared[1:]} if shared[1:] else {"all": shared}
    d = torch.cat([balanced(losses, group, WHOLE, odd)[0] for group in groups.values()])
    Balancer(odd, 4, shared=groups).step(losses, share=SHARE)
    assert near(of(shared), d)


def from_features(heads, z):
    return [head(z).square().mean() * (t + 1) for t, head in enumerate(heads)]


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("name", TRUNKS)
def test_features_are_where_tasks_meet(name, named):
    trunk, heads, x, _ = setting(name, one_input)
    z = trunk(x)
    losses = from_features(heads, z)
    own = mean_of_heads(heads, losses)
    signals = torch.stack([torch.autograd.grad(f, z, retain_graph=True)[0] for f in losses])
    flat = signals.flatten(1).double()
    mixed = torch.tensordot(odd(flat @ flat.T, WHOLE).float(), signals, 1)
    expected = torch.autograd.grad(z, list(trunk.parameters()), mixed, retain_graph=True)
    balancer = Balancer(odd, 4, shared=trunk, level="features")
    done = balancer.step(losses, share=SHARE, features=[z] if named else [])
    assert near(done.gramian, flat @ flat.T)
    check(trunk, heads, torch.cat([g.flatten() for g in expected]), own)


def test_features_of_tasks_that_never_meet_must_be_named():
    trunk, heads, x, losses = setting("perceptron", own_rows)
    with pytest.raises(ValueError, match="give features="):
        Balancer(odd, 4, shared=trunk, level="features").step(losses)
    features = [trunk(x.roll(t, 1)) for t in range(4)]
    losses = [h(z).square().mean() for h, z in zip(heads, features, strict=True)]
    done = Balancer(odd, 4, shared=trunk, level="features").step(losses, features=features)
    assert done.gramian.count_nonzero() == 4  # rows of its own: never in conflict


def test_features_of_a_tied_weight_are_refused():
    trunk, _, _, losses = setting("perceptron", tied)
    with pytest.raises(ValueError, match="tied weight"):
        Balancer(odd, 4, shared=trunk, level="features").step(losses)


@pytest.mark.parametrize("method", ["upgrad", "uncertainty", "graddrop", "gls", "mean"])
@pytest.mark.parametrize("kind", [one_input, own_rows, two_tables])
def test_parts_add_up_to_the_whole_batch(method, kind):
    trunk, heads, x, losses = setting("perceptron", kind)
    shared = [*trunk.parameters(), *heads.parameters()]
    whole = Balancer(method, 4, shared=trunk).step(losses, share=SHARE)
    expected = of(shared)
    for parameter in shared:
        parameter.grad = None
    thirds = [lambda: [loss / 3 for loss in kind(trunk, heads, x)]] * 3
    done = Balancer(method, 4, shared=trunk).run(thirds, range(4), SHARE)
    assert near(of(shared), expected)
    assert near(done.weights, whole.weights)
    assert near(done.losses, whole.losses)


@pytest.mark.parametrize("method", list(BALANCERS))
@pytest.mark.parametrize("kind", [one_input, own_rows])
def test_an_absent_task_is_as_if_its_rows_had_been_removed(method, kind):
    found = []
    for absent in (True, False):
        trunk, heads, _, losses = setting("perceptron", kind)
        keep = [0, 2, 3]
        balancer = Balancer(method, 4 if absent else 3, shared=trunk)
        if absent:
            losses[1] = None
        else:
            losses = [losses[t] for t in keep]
        numbers = {"rlw", "pcgrad", "gradvac"}  # their random numbers belong to a task's number
        done = balancer.step(losses)
        found.append((done.weights, of(trunk.parameters()), heads[1].weight.grad))
    if method not in numbers:
        assert near(found[0][0], found[1][0])
        assert near(found[0][1], found[1][1])
    assert found[0][2] is None


@pytest.mark.parametrize("method", list(BALANCERS))
def test_one_task_alone_is_plain_training(method):
    trunk, heads, _, losses = setting("perceptron", one_input)
    parameters = [*trunk.parameters(), *heads[0].parameters()]
    expected = torch.cat(
        [g.flatten() for g in torch.autograd.grad(losses[0], parameters, retain_graph=True)]
    )
    Balancer(method, 4, shared=trunk, numbers=[False] * 4).step([losses[0], None, None, None])
    got = of(parameters)
    if "one task" in BALANCERS[method].invariants:
        assert near(got, expected)
    assert got @ expected > 0


def test_a_task_without_rows_in_this_part_adds_nothing():
    trunk, heads, _, losses = setting("perceptron", own_rows)
    losses[1] = torch.zeros(())
    done = Balancer("upgrad", 4, shared=trunk).step(losses)
    assert done.tasks == [0, 1, 2, 3]
    assert not done.fallback
    assert heads[1].weight.grad is None


@pytest.mark.parametrize("method", ["moco", "graddrop", "upgrad", "gradnorm"])
@pytest.mark.parametrize("level", ["parameters", "features"])
def test_a_loss_scaler_only_scales(method, level):
    if BALANCERS[method].tracks and level == "features":
        with pytest.raises(ValueError, match="a state as long as a row"):
            Balancer(method, 4, level=level)
        return
    found = []
    for factor in (1.0, 1024.0):
        trunk, heads, x, _ = setting("perceptron", one_input)
        balancer = Balancer(method, 4, shared=trunk, level=level)
        for _ in range(3):
            trunk.zero_grad()
            heads.zero_grad()
            losses = one_input(trunk, heads, x)
            done = balancer.step(losses, share=SHARE, scale=lambda loss, by=factor: loss * by)
        found.append((of([*trunk.parameters(), *heads.parameters()]) / factor, done))
    assert near(found[0][0], found[1][0], 1e-6)
    assert torch.equal(found[0][1].weights, found[1][1].weights)
    if found[0][1].gramian is not None:
        assert torch.equal(found[0][1].gramian, found[1][1].gramian)


def test_watching_leaves_the_gradient_alone():
    found = []
    for watch in (0, 1):
        trunk, heads, _, losses = setting("perceptron", one_input)
        _, M = balanced(losses, list(trunk.parameters()), WHOLE, odd)
        done = Balancer("mean", 4, shared=trunk, watch=watch).step(losses, share=SHARE)
        found.append(of([*trunk.parameters(), *heads.parameters()]))
    assert torch.equal(*found)
    assert near(done.gramian, M)


def test_every_second_look_costs_a_plain_step():
    trunk, heads, x, _ = setting("perceptron", one_input)
    balancer = Balancer("upgrad", 4, shared=trunk, every=2)
    costs = []
    for _ in range(2):
        losses = one_input(trunk, heads, x)
        with FlopCounterMode(display=False) as counter:
            balancer.step(losses)
        costs.append(counter.get_total_flops())
    losses = one_input(trunk, heads, x)
    with FlopCounterMode(display=False) as counter:
        torch.stack(losses).mean().backward()
    assert costs[1] == counter.get_total_flops() < costs[0]


def test_task_gradients_of_own_rows_cost_one_backward():
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 64))
    heads = nn.ModuleList(nn.Linear(64, 2) for _ in range(8))
    rows = torch.randn(8, 128, 64)

    def flops(step):
        losses = [head(trunk(x)).square().mean() for head, x in zip(heads, rows, strict=True)]
        with FlopCounterMode(display=False) as counter:
            step(losses)
        return counter.get_total_flops()

    plain = flops(lambda losses: torch.stack(losses).mean().backward())
    balancer = Balancer("upgrad", 8, shared=trunk)
    assert flops(balancer.step) < 1.15 * plain


def test_a_state_comes_back():
    trunk, heads, x, _ = setting("perceptron", one_input)

    def steps(balancer, count):
        return [balancer.step(one_input(trunk, heads, x)).weights for _ in range(count)]

    for method in ("gradvac", "famo", "dwa"):
        whole = Balancer(method, 4, shared=trunk, every=3)
        first, second = (
            Balancer(method, 4, shared=trunk, every=3),
            Balancer(method, 4, shared=trunk, every=3),
        )
        expected = steps(whole, 8)
        got = steps(first, 4)
        second.load(first.state())
        got += steps(second, 4)
        assert all(torch.equal(a, b) for a, b in zip(expected, got, strict=True)), method


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shared": []}, "shared must hold trainable parameters"),
        ({"shared": {"a": [nn.Parameter(torch.ones(1))] * 2}}, "each in one group only"),
    ],
)
def test_what_cannot_be_balanced_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Balancer("upgrad", 2, **arguments)


def test_a_mistyped_method_is_named():
    with pytest.raises(
        TaskgroveError, match=r'no balancing method "upgrat".*Did you mean "upgrad"'
    ):
        Balancer("upgrat", 2)


def test_the_reference_is_what_autograd_says():
    trunk, _, _, losses = setting("perceptron", own_rows)
    G = task_gradients(losses, list(trunk.parameters()))
    torch.stack(losses).sum().backward()
    assert near(G.sum(0), of(trunk.parameters()))
