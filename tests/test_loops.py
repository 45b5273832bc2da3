"""The Balancer in loops of others: two processes equal one; accelerate, DDP, FSDP2, Fabric."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import distributed, nn

import child_loops as child
from loops import plain, with_fabric
from taskgrove.balancing import Balancer

HERE = Path(__file__).parent
KINDS = {
    "plain": child.PLAIN, "ddp": child.DDP, "unused": child.UNUSED, "fsdp": child.FSDP,
    "nested": child.NESTED,
}  # fmt: skip


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What two gloo processes made of every case, each with half of every batch."""
    return launched(tmp_path_factory.mktemp("loops"))


def launched(folder, *launch):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, *launch, str(HERE / "child_loops.py"), str(folder)],
        capture_output=True, text=True, timeout=500, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return torch.load(folder / "found.pt")


@pytest.fixture(scope="module")
def alone():
    """What one process makes of a case, of the joined batches; each case once."""
    known = {}

    def of(case):
        key = repr(case)
        if key not in known:
            known[key] = child.run(plain.train, case, slice(None))
        return known[key]

    return of


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_equal_one_on_the_joined_batch(found, alone, kind):
    start = child.Net()
    for name, case in KINDS[kind].items():
        assert_same(found[kind][name], alone(case), f"{kind} {name}")
        trunk = found[kind][name]["parameters"][0]
        assert not torch.allclose(trunk, start.trunk[0].weight, atol=1e-4), name


def assert_same(two, one, name):
    for what in ("weights", "losses", "parameters"):
        for a, b in zip(two[what], one[what], strict=True):
            assert torch.allclose(a, b, rtol=1e-4, atol=1e-5), f"{name}: {what}"


@pytest.mark.slow
def test_ranks_under_torchrun_are_the_forked_ones(found, tmp_path):
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    for kind, cases in launched(tmp_path, *launch).items():
        if kind in KINDS:
            for name, case in cases.items():
                assert_same(case, found[kind][name], f"{kind} {name}")


def test_groups_of_shards_equal_groups(found):
    whole = child.groups(child.Net(), lambda balancer, losses: balancer.step(losses))
    assert len(whole) == len(found["groups"])
    for shard, gradient in zip(found["groups"], whole, strict=True):
        assert torch.allclose(shard, gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("what", "sentence"),
    [
        ("rows", "cannot balance parameters that are sharded"),
        ("no backward", "give backward="),
        ("no all_reduce", "and all_reduce="),
        ("not reduced", "no_sync"),
        ("before prepare", "no loss reads a parameter of shared="),
    ],
)
def test_what_sharding_cannot_do_is_said(found, what, sentence):
    assert sentence in found["refused"][what]


def test_a_static_graph_is_refused(tmp_path):
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/x", rank=0, world_size=1)
    try:
        model = nn.parallel.DistributedDataParallel(child.Net(), static_graph=True)
        losses = [output.square().mean() for output in model(torch.ones(2, 5))]
        balancer = Balancer("upgrad", 3, shared=model.module.trunk)
        with pytest.raises(ValueError, match="static_graph"):
            balancer.step(losses, backward=torch.autograd.backward)
        del model
    finally:
        distributed.destroy_process_group()


@pytest.mark.filterwarnings("default")  # of Fabric's own
@pytest.mark.parametrize("name", child.FEW)
@pytest.mark.parametrize("kind", ["one", "own", "absent"])
def test_fabric(alone, name, kind):
    lightning_fabric = pytest.importorskip("lightning_fabric")
    fabric = lightning_fabric.Fabric(accelerator="cpu", devices=1)
    case = (name, kind, {})
    assert_same(child.run(partial(with_fabric.train, fabric), case, slice(None)), alone(case), name)


@pytest.mark.filterwarnings("default")
def test_fabric_in_mixed_precision():
    lightning_fabric = pytest.importorskip("lightning_fabric")
    case = ("upgrad", "one", {})
    fabric = lightning_fabric.Fabric(accelerator="cpu", devices=1, precision="bf16-mixed")
    with pytest.raises(RuntimeError, match=r"requires you to call `fabric.backward"):
        child.run(partial(with_fabric.train, fabric), case, slice(None))
    fabric = lightning_fabric.Fabric(accelerator="cpu", devices=1)
    with torch.autocast("cpu", torch.bfloat16):
        done = child.run(partial(with_fabric.train, fabric), case, slice(None))
    assert all(weights.isfinite().all() for weights in done["weights"])
