"""ScaLearn and AdapterFusion: their formulas written out, folding, counts, two stages."""

from functools import partial

import pytest
import torch

import taskgrove
from taskgrove.backbones.vit import Vit
from taskgrove.errors import TaskgroveError
from taskgrove.methods import METHODS
from taskgrove.methods.method import Job
from taskgrove.methods.start import start
from taskgrove.sharing.adapter import Adapter, take
from taskgrove.sharing.adapter_fusion import AdapterFusion
from taskgrove.sharing.lora import key
from taskgrove.sharing.scaled_adapters import ScaledAdapters
from taskgrove.sharing.sharing import Sharing
from taskgrove.suites import locate
from test_adapters import IDS, Block, at, bert, by_hand
from test_sharing import TASKS, moved, of_sizes

SHAPES = [
    {"shape": shape, "share_layers": share} for shape in ("vector", "scalar") for share in (0, 1)
]


def attached(choice):
    block = Block().requires_grad_(False)
    sharing = moved(Sharing(block, [("*", choice)], TASKS)).eval()
    return block, sharing, sharing.parts[0]


def outputs(parts, f):
    """o_s of one row's dense output f [token dim], as the paper writes them."""
    weights = zip(*(p["down"] for p in parts.adapters), strict=True)
    return [(f @ D.T + c).relu() @ U + e for D, c, U, e in weights]


@pytest.mark.parametrize("shape", SHAPES)
def test_scales_act_on_each_sources_output(shape):
    shape = {**shape, "share_layers": bool(shape["share_layers"])}
    block, sharing, parts = attached(ScaledAdapters(reduction=2, sources=4, **shape))
    x = torch.randn(6, 5, 6)
    f = block(x)
    route = of_sizes(1, 2, 3)
    with sharing.using(route):
        y = block(x)
    omega = parts.omega["all" if shape["share_layers"] else "down"]
    assert omega.shape == (3, 4, 6 if shape["shape"] == "vector" else 1)
    for n, t in enumerate(route.group_of.tolist()):
        scaled = zip(omega[t], outputs(parts, f[n]), strict=True)
        wanted = f[n] + sum(w * o for w, o in scaled)
        torch.testing.assert_close(y[n], wanted)
        D, c, U, e = parts.fold("down", t)
        torch.testing.assert_close(f[n] + (f[n] @ D.T + c).relu() @ U + e, wanted)


def test_one_source_by_itself_is_its_adapter():
    block, sharing, parts = attached(ScaledAdapters(reduction=2))
    other, single, adapters = attached(Adapter(reduction=2))
    take(parts.adapters, adapters)
    parts.omega["down"].data = torch.eye(3)[:, :, None].repeat(1, 1, 6)
    x = torch.randn(6, 6)
    with torch.no_grad(), sharing.using(of_sizes(1, 2, 3)), single.using(of_sizes(1, 2, 3)):
        torch.testing.assert_close(block(x), other(x))


def test_fusion_is_attention_over_the_sources():
    block, sharing, parts = attached(AdapterFusion(reduction=2, sources=4))
    x = torch.randn(6, 5, 6)
    f, route = block(x), of_sizes(1, 2, 3)
    with sharing.using(route):
        y = block(x)
    for n, t in enumerate(route.group_of.tolist()):
        Q, K, V = (W["down"][t] for W in (parts.Q, parts.K, parts.V))
        o = torch.stack(outputs(parts, f[n]), 1)  # [token source dim]
        a = torch.einsum("td,tsd->ts", f[n] @ Q.T, o @ K.T).softmax(-1)
        wanted = f[n] + torch.einsum("ts,tsd->td", a, o @ V.T)
        torch.testing.assert_close(y[n], wanted, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_in_post_norm_blocks_the_sum_stands_between_the_norms():
    trunk, route = bert(), of_sizes(1, 2, 3)
    sharing = moved(Sharing(trunk, [("*", ScaledAdapters(reduction=4, sources=2))], TASKS)).eval()
    parts, model = sharing.parts[0], bert()
    with sharing.using(route):
        y = trunk(input_ids=IDS)[0]
    one = Sharing(model, [("*", Adapter(reduction=2))], ["folded"])  # twice as wide: 2 sources
    for n, task in enumerate(route.group_of.tolist()):
        adds = [lambda h, k=k, t=task: sum(w * at([p[k] for p in parts.adapters], s)(h)
                for s, w in enumerate(parts.omega[k][t])) for k in parts.D]  # fmt: skip
        wanted = by_hand(adds)(input_ids=IDS[n : n + 1])[0]
        torch.testing.assert_close(y[n : n + 1], wanted, atol=1e-5, rtol=1e-4)
        for site in parts.names:
            own = one.parts[0]
            for to, folded in zip(
                (own.D, own.c, own.U, own.e), parts.fold(site, task), strict=True
            ):
                to[key(site)].copy_(folded[None])
        with one.using(of_sizes(1)):
            folded = model(input_ids=IDS[n : n + 1])[0]
        torch.testing.assert_close(y[n : n + 1], folded, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_in_post_norm_blocks_attention_stands_between_the_norms():
    trunk, route = bert(), of_sizes(1, 2, 3)
    sharing = moved(Sharing(trunk, [("*", AdapterFusion(reduction=4))], TASKS)).eval()
    parts = sharing.parts[0]
    with sharing.using(route):
        y = trunk(input_ids=IDS)[0]

    def fused(h, k, t):
        o = torch.stack([at([p[k] for p in parts.adapters], s)(h) for s in range(3)], -2)
        a = torch.einsum("...d,...sd->...s", h @ parts.Q[k][t].T, o @ parts.K[k][t].T).softmax(-1)
        return torch.einsum("...s,...sd->...d", a, o @ parts.V[k][t].T)

    for n, task in enumerate(route.group_of.tolist()):
        model = by_hand([partial(fused, k=k, t=task) for k in parts.D])
        wanted = model(input_ids=IDS[n : n + 1])[0]
        torch.testing.assert_close(y[n : n + 1], wanted, atol=1e-5, rtol=1e-4)


def test_adapters_of_other_sites_or_sizes_are_refused():
    *_, parts = attached(ScaledAdapters(reduction=2))
    *_, narrow = attached(Adapter(reduction=3))
    with pytest.raises(
        TaskgroveError, match=r'have \[3, 2, 6\] as D at "down", expected \[3, 3, 6\]'
    ):
        take(parts.adapters, narrow)
    other = torch.nn.ModuleDict({"other": torch.nn.Linear(12, 6)})
    elsewhere = Sharing(other, [("*", Adapter(reduction=2))], TASKS)
    before = parts.D["down"].clone()
    with pytest.raises(TaskgroveError, match='have nothing as D at "down"'):
        take(parts.adapters, elsewhere.parts[0])
    assert torch.equal(parts.D["down"], before)


class KilledError(Exception):
    """A kill."""


def vit():
    return Vit(16, 2, 2)


def trained(folder, name, stop=None, rules=()):
    """A staged method; `stop`: (fit, after how much of it) it is killed, to run again."""
    task_set = taskgrove.load_tasks(locate("pictures"))
    options = taskgrove.Options(evaluations=4, precision="fp32")
    place, *_ = start(task_set, folder / "start", seed=0, steps=1, options=options, name=vit)
    left = [stop] if stop else []

    def progress(what, done, _):
        if left and what == left[0][0] and done >= left[0][1]:
            left.clear()
            raise KilledError

    limit = taskgrove.Budget(steps=8).in_passes(options.batch_size)
    job = Job(task_set, place, limit, options, 0, folder, progress=progress, make=vit, rules=rules)
    if stop:
        with pytest.raises(KilledError):
            METHODS[name].run(job)
    return METHODS[name].run(job)


@pytest.mark.parametrize("stop", [("sources", 0.7), ("scalearn", 0.7)])
def test_killed_in_either_stage_it_ends_with_the_same_bits(stop, tmp_path):
    whole = trained(tmp_path / "whole", "scalearn")
    again = trained(tmp_path / "again", "scalearn", stop)
    wanted, found = whole.model.state_dict(), again.model.state_dict()
    assert list(found) == list(wanted)
    assert all(torch.equal(found[name], weights) for name, weights in wanted.items())
    assert whole.coefficients == again.coefficients
    assert abs(whole.passes - 8 * 64) <= 64


def test_rules_say_where_and_how(tmp_path):
    rules = [("blocks.0.*", ScaledAdapters("scalar", reduction=4))]
    parts = trained(tmp_path, "scalearn", rules=rules).model.sharing.parts
    assert [name.startswith("blocks.0.") for name in parts[0].names] == [True]
    assert parts[0].choice.shape == "scalar"
    with pytest.raises(TaskgroveError, match=r'"scalearn" trains adapters first.*got Adapter'):
        trained(tmp_path / "other", "scalearn", rules=[("*", Adapter())])


class Layer(torch.nn.Module):
    """A feed-forward block of RoBERTa-base, empty."""

    def __init__(self):
        super().__init__()
        with torch.device("meta"):
            self.dense = torch.nn.Linear(3072, 768)


@pytest.mark.parametrize(("shape", "count"), list(zip(SHAPES, [73728, 6144, 96, 8], strict=True)))
def test_the_papers_counts(shape, count):
    """Table 1: S = 8 sources, d = 768, L = 12 layers; one target."""
    trunk = torch.nn.ModuleList(Layer() for _ in range(12))
    choice = ScaledAdapters(
        sources=8, shape=shape["shape"], share_layers=bool(shape["share_layers"])
    )
    sharing = Sharing(trunk, [("*", choice)], ["target"])
    assert sum(p.numel() for p in sharing.parameters() if p.requires_grad) == count


def test_omega_starts_at_twice_the_mean_adapter():
    torch.manual_seed(0)
    sharing = Sharing(Block(), [("*", ScaledAdapters(reduction=2))], TASKS)
    omega = sharing.parts[0].omega["down"]
    assert abs(omega.mean() - 2 / 3) < 1e-3
    assert 5e-4 < omega.std() < 2e-3
    assert not any(p.requires_grad for part in sharing.parts[0].adapters for p in part.values())


def test_one_omega_for_sites_of_two_widths_is_refused():
    blocks = torch.nn.ModuleList([torch.nn.Linear(8, 4), torch.nn.Linear(8, 2)])
    with pytest.raises(TaskgroveError, match=r"one omega for all sites needs one width.*\[2, 4\]"):
        Sharing(blocks, [("*", ScaledAdapters(share_layers=True, reduction=2))], TASKS)
    Sharing(blocks, [("*", ScaledAdapters("scalar", share_layers=True, reduction=2))], TASKS)


def test_two_stages_are_trained_and_told(tmp_path):
    outcome = trained(tmp_path / "scales", "scalearn_uniform")
    parts = outcome.model.sharing.parts[0]
    assert parts.contributions().shape == (6, 6)
    assert any(U.abs().sum() > 0 for U in parts.U.values())  # the first stage's adapters
    assert any(" contributes " in note for note in outcome.notes)
    values = torch.tensor(outcome.coefficients["values"])
    torch.testing.assert_close(values, parts.contributions(), atol=1e-5, rtol=1e-4)
    assert abs(outcome.passes - 8 * 64) <= 64
    fused = trained(tmp_path / "fusion", "adapter_fusion").model.sharing.parts[0]
    assert any(U.abs().sum() > 0 for U in fused.U.values())
