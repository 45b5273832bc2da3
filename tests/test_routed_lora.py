"""Poly and MHR: the routed inventory is its twin, its special cases are what they should be."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import taskgrove
from command_line import works
from reference.routed_skills import routed_change
from taskgrove.errors import TaskgroveError
from taskgrove.sharing.lora import LoRA
from taskgrove.sharing.peft_folder import export_lora, import_lora
from taskgrove.sharing.routed_lora import MHR, Poly
from taskgrove.sharing.sharing import Sharing
from taskgrove.sharing.table import choice_of
from taskgrove.sharing.task_router import TaskRouter
from test_sharing import images, moved, of_sizes, run, small_trunk

quick = settings(max_examples=25, deadline=None)


def one_layer(choice, tasks, dim=8, out=4):
    torch.manual_seed(0)
    trunk = torch.nn.ModuleDict({"layer": torch.nn.Linear(dim, out)}).requires_grad_(False)
    return trunk["layer"], moved(Sharing(trunk, [("*", choice)], [str(n) for n in range(tasks)]))


@quick
@given(st.integers(1, 3), st.integers(1, 4), st.sampled_from([1, 2, 4]), st.integers(1, 3))
def test_mixed_parameters_are_the_twin(tasks, skills, heads, rank):
    layer, sharing = one_layer(MHR(skills, heads, rank, alpha=3.0), tasks)
    parts = sharing.parts[0]
    x = torch.randn(2 * tasks, 8)
    with torch.no_grad(), sharing.using(of_sizes(*[2] * tasks)):
        y = layer(x)
    A, B = parts.A["layer"].detach(), parts.B["layer"].detach()
    for n in range(2 * tasks):
        Z = parts.router.Z.detach()[n // 2, 0]
        wanted = layer(x[n]) + routed_change(x[n], A, B, Z, 3.0 / rank)
        torch.testing.assert_close(y[n], wanted, atol=1e-5, rtol=1e-4)


def test_one_head_is_poly_and_one_skill_is_shared_lora():
    for choice, other in [
        (MHR(3, heads=1), Poly(3)),
        (MHR(1, heads=4, rank=2, alpha=6.0), LoRA(rank=2, alpha=6.0, shared=True)),
    ]:
        (layer, ours), (same, theirs) = one_layer(choice, 2), one_layer(other, 2)
        own, others = ours.parts[0], theirs.parts[0]
        with torch.no_grad():
            if isinstance(other, Poly):
                theirs.load_state_dict(ours.state_dict())
            else:
                others.A[0].copy_(own.A["layer"])
                others.B["layer"].copy_(own.B["layer"])
            x = torch.randn(5, 8)
            with ours.using(of_sizes(2, 3)), theirs.using(of_sizes(2, 3)):
                torch.testing.assert_close(layer(x), same(x))


def test_private_skills_are_a_lora_a_task():
    layer, ours = one_layer(MHR(3, 2, rank=2, alpha=4.0, router="private"), 3)
    same, theirs = one_layer(LoRA(rank=2, alpha=4.0), 3)
    with torch.no_grad():
        theirs.parts[0].A[0].copy_(ours.parts[0].A["layer"])
        theirs.parts[0].B["layer"].copy_(ours.parts[0].B["layer"])
        x = torch.randn(6, 8)
        with ours.using(of_sizes(1, 2, 3)), theirs.using(of_sizes(1, 2, 3)):
            torch.testing.assert_close(layer(x), same(x))


@quick
@given(st.sampled_from(["sigmoid", "softmax", "uniform", "private"]), st.integers(0, 99))
def test_weights_are_shares(kind, seed):
    torch.manual_seed(seed)
    router = TaskRouter(3, 2, 4, 5, kind)
    router.Z.data.normal_(0, 3)
    w = router(of_sizes(1, 1, numbers=(2, 0)))
    assert w.shape == (2, 2, 4, 5)
    torch.testing.assert_close(w.sum(-1), torch.ones(2, 2, 4))
    entropy = router.entropy()
    assert ((entropy >= -1e-6) & (entropy <= 1 + 1e-6)).all()
    if kind in ("uniform", "private"):
        torch.testing.assert_close(entropy, torch.full((3,), float(kind == "uniform")))


def test_a_fresh_router_is_nearly_uniform_and_leaves_it_in_training(small_tasks, tmp_path):
    torch.manual_seed(0)
    assert TaskRouter(3, 2, 4, 5).entropy().min() > 1 - 1e-6
    quick_run = ("--steps", 40, "--start-steps", 10, "--out", tmp_path / "model")
    works("train", "poly", "--tasks", small_tasks, *quick_run)
    assert taskgrove.load(tmp_path / "model").sharing.parts[0].router.entropy().max() < 0.999


def test_a_task_folds_to_a_lora_of_peft(tmp_path):
    trunk = small_trunk()
    sharing = moved(Sharing(trunk, [("*", MHR())], ["a", "b", "c"]))
    with torch.no_grad():
        wanted = run(trunk, sharing, of_sizes(6, numbers=(1,)))
    export_lora(sharing, "b", tmp_path / "b")
    sharing.detach()
    plain = import_lora(trunk, {"b": tmp_path / "b"})
    with torch.no_grad():
        found = run(trunk, plain, of_sizes(6), images())
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)


def test_a_router_that_is_not_there_is_refused():
    with pytest.raises(TaskgroveError, match="router is 'sigmod': input should be 'sigmoid'"):
        choice_of({"choice": "mhr", "router": "sigmod"})


def test_a_private_router_without_a_skill_left_takes_no_task():
    router = TaskRouter(2, 1, 1, 3, "private")
    router.add(1)
    with pytest.raises(TaskgroveError, match="3 skills for 4 tasks"):
        router.add(1)
    assert len(router.Z) == 3


def test_counts():
    _, sharing = one_layer(MHR(4, 2, rank=3), 5)
    skills = 4 * 3 * (8 + 4)
    assert sum(p.numel() for p in sharing.parameters()) == skills + 5 * 1 * 2 * 4
    assert math.prod(sharing.stacked()["parts.0.router.Z"].shape[1:]) == 2 * 4
    assert sharing.rate_of("parts.0.router.Z") == 100
    assert not sharing.decays("parts.0.router.Z")
    assert sharing.decays("parts.0.A.layer")


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        (MHR(skills=2, heads=2, rank=2, router="private"), "2 skills for 3 tasks"),
        (MHR(heads=3), "leaves no module"),
        (MHR(heads=0), "0 heads: give 1 or more"),
    ],
)
def test_settings_that_cannot_be(choice, words):
    with pytest.raises(TaskgroveError, match=words):
        one_layer(choice, 3)
