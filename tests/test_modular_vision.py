"""The system modular_vision: its data, its model, and the experiment at tiny sizes."""

import copy

import pytest
import torch

from taskgrove.sharing.expert_attention import ExpertAttention
from taskgrove.sharing.experts import MixtureOfExperts
from taskgrove.systems import modular_vision
from taskgrove.systems.modular.expert_vit import ExpertVit, extracted, with_new_task
from taskgrove.systems.modular.heterogeneous import masses, new_model, pruned, train
from taskgrove.systems.modular.letters import FONTS, LATIN, letters
from taskgrove.systems.modular.vision_tasks import TASKS, data


@pytest.fixture(scope="module")
def world():
    parts, classes = data(0, True)
    return parts, list(classes.values())


def test_letters_are_drawn_and_fonts_are_apart():
    fonts = [set(names) for names in FONTS.values()]
    assert not fonts[0] & fonts[1] | fonts[0] & fonts[2] | fonts[1] & fonts[2]
    x, y = letters(LATIN, "validation", 1, 0)
    assert x.shape == (52, 28, 28, 3)
    ink = (255 - x.astype(float)).reshape(52, -1).sum(1)
    assert ink.min() > 255 * 10
    means = {n: x[y == n].mean(0) for n in (0, 8)}  # an A is no I
    assert abs(means[0] - means[8]).max() > 100
    again, _ = letters(LATIN, "validation", 1, 1)
    assert (again != x).any()


def test_tasks_share_no_picture(world):
    parts, classes = world
    assert classes == [10, 26, 8, 12]
    seen = [{row.numpy().tobytes() for split in parts[t].values() for row in split[0]}
            for t in TASKS]  # fmt: skip
    assert all(not a & b for n, a in enumerate(seen) for b in seen[n + 1 :])


def test_dense_and_experts_have_equal_active_products():
    dense, experts = (ExpertVit([10], experts=e) for e in (False, True))
    kinds = [type(layer.f) for layer in experts.layers]
    assert kinds.count(ExpertAttention) == kinds.count(MixtureOfExperts) == 2
    attention, feed = experts.layers[0].f, experts.layers[3].f
    assert attention.k * attention.Wq[0].numel() == dense.layers[0].f.out.weight.numel()
    assert feed.k * feed.W1[0].numel() == dense.layers[1].f.up.weight.numel()


def test_a_cut_out_task_that_keeps_all_is_the_task_itself(world):
    parts, classes = world
    model, x = new_model(classes, 0, experts=True), parts["clipart"]["test"][0]
    for layer in model.mixtures():
        torch.nn.init.normal_(layer.f.router.W, 0, 0.05, torch.Generator().manual_seed(1))
    mass = masses(model, parts["clipart"]["test"], 3)
    assert all(m.sum().item() == pytest.approx(1) for m in mass)
    small = copy.deepcopy(model)
    assert extracted(small, 3, [torch.ones(8)] * 4, 1.0) == [8, 8, 8, 8]
    torch.testing.assert_close(small(x, 0)[0], model(x, 3)[0])
    kept, _ = pruned(model, mass, parts["clipart"]["test"], 3, 0.5)
    assert 12.5 <= kept < 80


@pytest.mark.parametrize("new", [0, 2])
def test_a_new_task_leaves_the_old_ones_bit_for_bit(world, new):
    parts, classes = world
    model = new_model(classes, 0, experts=True)
    before = [model(parts[t]["test"][0], n)[0] for n, t in enumerate(TASKS)]
    own = with_new_task(model, 26, new)
    start = copy.deepcopy(model.state_dict())
    train(model, {4: parts["letters"]["train"]}, 2, 0, own=own)
    after = [model(parts[t]["test"][0], n)[0] for n, t in enumerate(TASKS)]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    moved = {n for n, p in model.state_dict().items() if not torch.equal(p, start[n])}
    assert all(".f.router.W" in n or "heads.4" in n or ".f.W" in n or ".f.b" in n for n in moved)
    assert any("heads.4" in n for n in moved)
    assert any(".f.W1" in n for n in moved) == bool(new)


def test_the_quick_claim_runs_and_is_whole():
    claim = modular_vision.SYSTEM.claim(True, [0])
    assert set(claim.scores["accuracy"]) == set(modular_vision.ARMS)
    assert all(0 <= found[0] <= 100 for found in claim.scores["accuracy"].values())
    part = claim.raw["mi"][0]
    kept = [sum(part["kept"][str(keep)].values()) for keep in modular_vision.KEEP]
    assert kept == sorted(kept)
    assert part["greek"]["router"]["old_same_bits"]
    assert part["greek"]["router_experts"]["old_same_bits"]
    assert not part["greek"]["all"]["old_same_bits"]
    assert len([s for s in claim.statements if s.decides]) == 3


def test_the_sides_of_the_statements():
    """Fewer experts, no loss and equal accuracy hold; each alone may fail."""

    def part(test, kept, small):
        of = dict.fromkeys(TASKS, test)
        keeps = [str(keep) for keep in modular_vision.KEEP]
        greek = {w: {"test": 50.0, "trained": 1, "old_same_bits": True}
                 for w in ("router", "router_experts", "all", "scratch")}  # fmt: skip
        return {
            "test": of, "kept": dict.fromkeys(keeps, dict.fromkeys(TASKS, kept)), "greek": greek,
            "pruned": dict.fromkeys(keeps, dict.fromkeys(TASKS, small)),
            "overlap": {"digits-letters": 0.5, "digits-fluent": 0.2},
        }  # fmt: skip

    def verdicts(mi, balance):
        found = {"single": [part(80, 0, 0), part(81, 0, 0)], "dense": [part(82, 0, 0)] * 2,
                 "mi": [mi] * 2, "mi_10x": [mi] * 2, "balance": [balance] * 2}  # fmt: skip
        claim = modular_vision.conclude(found, [0, 1])
        return claim.verdict, [s.verdict for s in claim.statements if s.decides]

    good = part(82, 40, 82)
    assert verdicts(good, part(82, 90, 82)) == ("holds", ["holds"] * 3)
    assert verdicts(good, part(82, 50, 82))[1][0] == "does not hold here"
    assert verdicts(part(82, 40, 70), part(82, 90, 82))[1][1] == "does not hold here"
    assert verdicts(part(70, 40, 70), part(82, 90, 82))[1][2] == "does not hold here"
