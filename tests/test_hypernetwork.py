"""HyperFormer, Polyhistor and Lite: generated adapters written out, exact counts, variance."""

import pytest
import torch
from torch.nn.functional import layer_norm

from taskgrove.errors import TaskgroveError
from taskgrove.sharing.hyperformer import HyperFormer, Polyhistor
from taskgrove.sharing.polyhistor_lite import PolyhistorLite, scaled_up
from taskgrove.sharing.sharing import Sharing
from test_sharing import TASKS, moved, of_sizes

WIDTHS = (8, 16, 32)
CHOICES = [
    HyperFormer(reduction=4, embedding=5),
    Polyhistor(reduction=4, embedding=5, rank=2),
    PolyhistorLite(reduction=4, embedding=5, rank=2, terms=3),
]


class Stages(torch.nn.Module):
    """Two feed-forward blocks at each of three widths."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.ends = torch.nn.ModuleList(torch.nn.Linear(40, d) for d in WIDTHS for _ in (0, 1))

    def forward(self, x):
        return torch.cat([end(x) for end in self.ends], -1)


@pytest.mark.parametrize("choice", CHOICES)
def test_what_is_generated_acts_as_an_adapter(choice):
    trunk, x = Stages().requires_grad_(False), torch.randn(6, 40)
    sharing = moved(Sharing(trunk, [("*", choice)], TASKS))
    route, net = of_sizes(1, 2, 3), sharing.parts[0].net
    with torch.no_grad(), sharing.using(route):
        y = trunk(x).split([d for d in WIDTHS for _ in (0, 1)], -1)
    for n, t in enumerate(route.group_of.tolist()):
        e = sharing.parts[0].task[t].detach()
        for place, end in enumerate(trunk.ends):
            D, U = written(choice, net, e, place)
            f = end(x[n])
            wanted = f + (f @ D.T).relu() @ U
            torch.testing.assert_close(y[place][n], wanted, atol=1e-4, rtol=1e-4)


def written(choice, net, e, place):
    """D and U of one task at one site, by the papers' formulas."""
    width = WIDTHS[place // 2]
    if isinstance(choice, PolyhistorLite):
        z, found = layer_norm(e, (5,)), []
        for generator, S in ((net.D, net.S_D), (net.U, net.S_U)):
            a = (generator.H_a @ z).view(3, 2, 2)
            b = (generator.H_b @ z).view(3, 2, 8)
            kernel = S[f"ends/{place}"]
            found.append(sum(torch.kron(kernel[j], a[j] @ b[j]) for j in range(3)))
        return found
    z = layer_norm(net.P @ torch.cat([e, net.site[place]]), (5,))
    found = []
    for generators in (net.D, net.U):
        g, low = generators[str(width)], width // 4
        whole = (g.H @ z).view(low, width) if g.rank is None else None
        factors = (g.H_a @ z).view(low, 2) @ (g.H_b @ z).view(2, width) if g.rank else None
        found.append(whole if factors is None else factors)
    return found


@pytest.mark.parametrize(
    ("choice", "count"),
    [
        (CHOICES[0], sum(2 * 5 * d * d // 4 for d in WIDTHS) + (3 + 6 + 10) * 5),
        (CHOICES[1], sum(2 * 5 * (d + d // 4) * 2 for d in WIDTHS) + (3 + 6 + 10) * 5),
        (CHOICES[2], 2 * 5 * (8 + 2) * 2 * 3 + 2 * 2 * 3 * (1 + 4 + 16) + 3 * 5),
    ],
)
def test_parameters_are_as_many_as_the_formulas_say(choice, count):
    sharing = Sharing(Stages(), [("*", choice)], TASKS)
    assert sum(p.numel() for p in sharing.parameters()) == count


@pytest.mark.parametrize("kind", [HyperFormer, Polyhistor, PolyhistorLite])
def test_generated_weights_start_with_a_linear_layers_variance(kind):
    torch.manual_seed(0)
    trunk = torch.nn.ModuleList([torch.nn.Linear(512, 64), torch.nn.Linear(512, 256)])
    parts = Sharing(trunk, [("*", kind(reduction=4))], [str(n) for n in range(20)]).parts[0]
    for site, (D, U) in parts.net(parts.task).items():
        width = trunk[int(site)].out_features
        assert D.shape == U.shape == (20, width // 4, width)
        assert 0.7 < D.std() * (3 * width) ** 0.5 < 1.4
        assert not U.any()


def test_kernels_are_kronecker_products():
    T, S = torch.randn(2, 3, 2, 4), torch.randn(3, 2, 5)
    wanted = torch.stack([sum(torch.kron(S[j], T[t, j]) for j in range(3)) for t in range(2)])
    torch.testing.assert_close(scaled_up(T, S), wanted)


def test_widths_that_do_not_fit_are_named():
    trunk = torch.nn.ModuleList([torch.nn.Linear(40, 8), torch.nn.Linear(40, 12)])
    with pytest.raises(TaskgroveError, match='"1" is 12 wide, which is no multiple'):
        Sharing(trunk, [("*", PolyhistorLite(reduction=4))], TASKS)
    Sharing(trunk, [("*", Polyhistor(reduction=4))], TASKS)
