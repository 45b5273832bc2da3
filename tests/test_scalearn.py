"""The claim about ScaLearn: its trunk, how arms learn, what follows from what was found."""

from dataclasses import replace

import pytest
import torch

from taskgrove.sharing.adapter import Adapter
from taskgrove.sharing.sharing import Sharing
from taskgrove.systems import scalearn
from taskgrove.systems.debian import adapter_arms, transfer
from taskgrove.systems.debian.facet_rows import made_up, part_of, task_rows
from taskgrove.systems.debian.packed_bert import PackedBert
from taskgrove.systems.debian.top_layers import tiny_encoder
from taskgrove.systems.debian.transfer_rows import SOURCES, Part, world

TEXTS = ["role0 use1 word3", "word2", "suite1 word5 word6 word7 use2", "word8 role1"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    world.cache_clear()


def test_the_modules_are_the_encoders_layers():
    encoder = tiny_encoder()
    texts = encoder.read(TEXTS)
    torch.testing.assert_close(PackedBert(encoder)(texts), encoder.features(encoder.base(), texts))


def test_adapters_stand_before_the_norms_and_tasks_do_not_mix_texts():
    encoder = tiny_encoder()
    trunk, texts = PackedBert(encoder), encoder.read(TEXTS)
    sharing = Sharing(trunk, [("*", Adapter(reduction=4))], ["a"])
    points = sharing.parts[0].points()
    assert {site: p.when for site, p in points.items()} == {
        f"layer.{n}.output.LayerNorm": "before" for n in (0, 1)
    }
    for p in sharing.parameters():
        torch.nn.init.normal_(p, std=0.3)
    whole = transfer.features(trunk, sharing, texts)
    assert (whole - trunk(texts)).abs().max() > 1e-2
    for n in range(len(TEXTS)):
        one = transfer.features(trunk, sharing, texts.take(torch.tensor([n])))
        torch.testing.assert_close(one[0], whole[n], atol=1e-5, rtol=1e-4)


def test_no_tested_package_is_in_any_tasks_training_part():
    table, counts = made_up(), {"train": 99, "validation": 9, "pool": 0, "test": 99}
    source = dict(zip(table["synopsis"], table["source"], strict=True))
    used = {part: set() for part in ("train", "validation", "test")}
    for task in SOURCES:
        for part, seen in used.items():
            seen |= {source[text] for text in task_rows(table, task, 3, counts).parts[part].texts}
    assert not used["test"] & (used["train"] | used["validation"])
    assert {part_of(str(name), 3) for name in used["test"]} == {"test"}


def parts_of(count=40):
    """Rows whose label is the sign of the first number."""
    x = {name: torch.randn(count, 3, generator=torch.Generator().manual_seed(n))
         for n, name in enumerate(("train", "validation", "test"))}  # fmt: skip
    texts = tiny_encoder().read(TEXTS)
    return x, {name: Part(texts, (rows[:, 0] > 0).long()) for name, rows in x.items()}


def test_learning_keeps_the_best_look():
    x, parts = parts_of()
    seen = []

    def read(name, rows):
        if rows is None:
            seen.append(name)
        return x[name] if rows is None else x[name][rows]

    good = transfer.learn(read, parts, 2, (200, 8), 0, {})
    assert seen == ["validation"] * transfer.LOOKS + ["test"]
    assert good.validation > 90
    assert good.right.double().mean() > 0.9
    late = transfer.learn(spoiled(x), parts, 2, (40, 8), 0, {})  # wrong rows after the first look
    assert late.validation > 70
    assert late.right.double().mean() > 0.7


def spoiled(x):
    """After a few steps training rows tell the opposite."""
    steps = []

    def read(name, rows):
        if name == "train":
            steps.append(1)
            return x[name][rows] * (1 if len(steps) < 12 else -1)
        return x[name] if rows is None else x[name][rows]

    return read


def test_scales_of_one_are_the_adapter_and_of_half_the_mean():
    here = world(0, True)
    known = transfer.sources(here)
    for weights in known.values():
        weights["U.layer/0/output/dense"].normal_()
    texts = here.parts["use"]["test"].texts

    def features(names, omega):
        choice = replace(adapter_arms.SCALED["uniform_pp"], sources=len(names))
        sharing = adapter_arms._attached(
            here, choice, {f"{k} {n}": known[n] for k, n in enumerate(names)}
        )
        torch.nn.init.constant_(sharing.parts[0].omega["all"], omega)
        found = transfer.features(here.trunk, sharing, texts)
        sharing.detach()
        return found

    alone = Sharing(here.trunk, [("*", Adapter(transfer.REDUCTION))], ["role"])
    alone.parts[0].load_state_dict(known["role"])
    wanted = transfer.features(here.trunk, alone, texts)
    alone.detach()
    assert (wanted - here.trunk(texts)).abs().max() > 1e-2
    torch.testing.assert_close(features(["role"], 1.0), wanted)
    torch.testing.assert_close(features(["role", "role"], 0.5), wanted)


def found_of(**more):
    """As `run` finds it, every arm at 50 but those named."""

    def arm(name):
        score = 50 + more.get(name, 0.0)
        return {"test": score, "parameters": 8, "right": ("1" * round(score)).ljust(60, "0"),
                "omega": {"role": 0.9, "own": -0.1}}  # fmt: skip

    return {"head": 9, "100": {name: arm(name) for name in adapter_arms.ARMS}}


@pytest.mark.parametrize(
    ("more", "verdict"),
    [
        ({"scalearn": 4, "scalearn_pp": 4, "uniform_pp": 1}, "holds"),
        ({}, "does not hold here"),
        ({"scalearn": 4, "scalearn_pp": 4, "adapter_fusion": 5}, "does not hold here"),
        ({"scalearn": 4, "scalearn_pp": 4, "mean_of_adapters": 4}, "does not hold here"),
        ({"scalearn": 4, "scalearn_pp": 4, "mean_of_adapters": 1}, "does not hold here"),
    ],
)
def test_what_decides(more, verdict):
    seeds = [found_of(**{name: value + 0.1 * n for name, value in more.items()}) for n in range(3)]
    claim = scalearn.conclude(dict.fromkeys(scalearn.TARGETS, seeds), [0, 1, 2])
    assert claim.verdict == verdict
    assert any("role 0.90, own -0.10" in note for note in claim.notes)


def test_the_quick_claim_runs():
    claim = scalearn.SYSTEM.claim(True, [0])
    (arms,) = claim.scores.values()
    assert list(arms) == list(adapter_arms.ARMS)
    first = claim.raw["use"][0]["16"]
    wanted = {"scalearn": 2 * 8 * 16, "uniform": 2 * 8, "scalearn_pp": 8 * 16, "uniform_pp": 8}
    assert {arm: first[arm]["parameters"] for arm in wanted} == wanted
    assert first["adapter_fusion"]["parameters"] == 2 * 3 * 16 * 16
    assert set(first["scalearn"]["omega"]) == {*SOURCES, "own"} - {"use"}
    assert len(first["scalearn"]["right"]) == len(world(0, True).parts["use"]["test"].labels)
