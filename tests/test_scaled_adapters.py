"""ScaLearn and AdapterFusion: their formulas written out, folding, counts, two stages."""

import json

import pytest
import torch

import taskgrove
from command_line import works
from taskgrove.errors import TaskgroveError
from taskgrove.sharing.adapter import Adapter, take
from taskgrove.sharing.adapter_fusion import AdapterFusion
from taskgrove.sharing.scaled_adapters import ScaledAdapters
from taskgrove.sharing.sharing import Sharing
from test_adapters import Block
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
    folder = tmp_path / "run"
    quick = ("--steps", 6, "--start-steps", 2, "--seeds", 1, "--out", folder)
    works("compare", "--tasks", "pictures", "--backbone", "vit", "--methods",
          "scalearn_uniform,adapter_fusion", *quick)  # fmt: skip
    found = taskgrove.load(folder / "work" / "seed-0" / "outcomes" / "scalearn_uniform" / "model")
    parts = found.sharing.parts[0]
    assert parts.contributions().shape == (6, 6)
    assert any(U.abs().sum() > 0 for U in parts.U.values())  # the first stage's adapters
    results = json.loads((folder / "results.json").read_text())["methods"]["scalearn_uniform"]
    assert any("takes of the adapters of:" in note for note in results["notes"])
    assert abs(results["passes"][0] - 6 * 64) <= 64
