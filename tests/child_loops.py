"""Two ranks for test_loops: train every case by the loops of `loops/`.

child_loops.py FOLDER      what came out lies in FOLDER/found.pt; under torchrun it is one rank
"""

import os
import sys
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator, FullyShardedDataParallelPlugin
from accelerate.utils import DistributedDataParallelKwargs, DistributedType
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from loops import plain, with_accelerate
from ranks import forked_ranks
from taskgrove.balancing import BALANCERS, Balancer

GRAMIAN = [name for name, choice in BALANCERS.items() if choice.needs == "gramian"]
ROWS = [name for name, choice in BALANCERS.items() if choice.needs == "rows"]
LOSSES = [name for name in BALANCERS if name not in GRAMIAN + ROWS]
FEW = ["upgrad", "nash", "uncertainty"]


class Net(nn.Module):
    """A trunk and three heads; inputs are one tensor, or a tensor a task; its features are kept."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.trunk = nn.Sequential(
            nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 7), nn.LayerNorm(7), nn.Tanh()
        )
        self.heads = nn.ModuleList(nn.Linear(7, width) for width in (1, 2, 3))
        self.features = []

    def forward(self, inputs):
        if isinstance(inputs, torch.Tensor):
            z = self.trunk(inputs)
            self.features[:] = [z]
            return [head(z) for head in self.heads]
        found = [None if x is None else self.trunk(x) for x in inputs]
        self.features[:] = [z for z in found if z is not None]
        return [None if z is None else head(z) for head, z in zip(self.heads, found, strict=True)]


def batches(kind, part=slice(None), steps=3):
    """(inputs, targets) a step: `one` input, `own` inputs a task, or the second task `absent`."""
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        x = torch.randn(3, 8, 5, generator=generator)
        y = [torch.randn(8, width, generator=generator)[part] for width in (1, 2, 3)]
        inputs = list(x[:, part]) if kind != "one" else x[0][part]
        if kind == "absent":
            inputs[1] = y[1] = None
        yield inputs, y


# name: (method, kind of batch, the Balancer's options)
PLAIN = {name: (name, "one", {}) for name in BALANCERS}
PLAIN |= {f"{name} own": (name, "own", {}) for name in BALANCERS}
PLAIN |= {f"{name} absent": (name, "absent", {}) for name in FEW}
PLAIN |= {f"{name} features": (name, "own", {"level": "features"}) for name in GRAMIAN}
DDP = {name: (name, "one", {}) for name in LOSSES + GRAMIAN}
DDP |= {f"{name} own": (name, "own", {}) for name in FEW}
DDP |= {f"{name} features": (name, "one", {"level": "features"}) for name in FEW}
DDP |= {f"{name} every": (name, "own", {"every": 2}) for name in FEW}
UNUSED = {f"{name} absent": (name, "absent", {}) for name in FEW}
UNUSED |= {f"{name} unused": (name, "one", {}) for name in FEW}
FSDP = {name: (name, "one", {}) for name in LOSSES + GRAMIAN}
FSDP |= {f"{name} own": (name, "own", {"every": 2}) for name in FEW}
FSDP |= {f"{name} features": (name, "one", {"level": "features"}) for name in FEW}
FSDP |= {f"{name} own features": (name, "own", {"level": "features", "every": 2}) for name in FEW}
NESTED = {f"{name} nested": (name, "one", {}) for name in FEW}
NESTED |= {f"{name} own nested": (name, "own", {}) for name in FEW}
REFUSED = ["rows", "no backward", "no all_reduce", "not reduced", "before prepare", "static graph"]


def whole(parameter):
    """A parameter that may be sharded."""
    value = parameter.detach()
    return value.full_tensor() if hasattr(value, "full_tensor") else value.clone()


def run(loop, case, part, model=None):
    """What a loop makes of a case."""
    method, kind, options = case
    model = model or Net()
    if method == "uncertainty":
        options = {k: v for k, v in options.items() if k not in ("level", "every")}
    done = loop(model, batches(kind, part), method, **options)
    return {
        "weights": [step.weights for step in done],
        "losses": [step.losses for step in done],
        "parameters": [whole(parameter) for parameter in model.parameters()],
    }


def accelerator(*handlers):
    return Accelerator(cpu=True, kwargs_handlers=list(handlers))


def sharding():
    """An Accelerator that prepares with FSDP2; of itself it does so only where it sees GPUs."""
    plugin = FullyShardedDataParallelPlugin(fsdp_version=2, cpu_ram_efficient_loading=False)
    found = accelerator()
    found.state.distributed_type, found.state.fsdp_plugin = DistributedType.FSDP, plugin
    return found


def nested():
    """A model in three parts of FSDP2's, made by hand."""
    model, mesh = Net(), init_device_mesh("cpu", (distributed.get_world_size(),))
    for module in (model.trunk[2], model.trunk, model):
        fully_shard(module, mesh=mesh)
    return model


def refusals():
    """The sentences of what cannot be, and gradients of two groups of shards."""
    inputs, targets = next(batches("one"))
    said = {}

    def attempt(name, model, method="upgrad", context=nullcontext, shared=None, **given):
        options = {"backward": torch.autograd.backward, "all_reduce": plain.average} | given
        balancer = Balancer(method, 3, shared=model.trunk if shared is None else shared)
        try:
            with context():
                balancer.step(plain.losses_of(model, inputs, targets), **options)
        except ValueError as error:
            said[name] = str(error)

    attempt("rows", nested(), "graddrop")
    attempt("no backward", nested(), backward=None)
    attempt("no all_reduce", nested(), all_reduce=None)
    model = nested()
    model.set_requires_gradient_sync(False)
    attempt("not reduced", model)
    model = Net()
    before = list(model.trunk.parameters())
    fully_shard(model, mesh=init_device_mesh("cpu", (distributed.get_world_size(),)))
    attempt("before prepare", model, shared=before)
    return said


def groups(model, step):
    """Gradients of one step over two named groups."""
    inputs, targets = next(batches("one", PART if distributed.is_initialized() else slice(None)))
    shared = {"low": list(model.trunk[0].parameters()), "high": list(model.trunk[2:].parameters())}
    step(Balancer("upgrad", 3, shared=shared), plain.losses_of(model, inputs, targets))
    return [whole(parameter.grad) for parameter in model.parameters()]


PART = slice(None)


def main(folder):
    global PART
    torch.set_num_threads(1)
    found = {}
    start = accelerator()
    PART = slice(start.process_index, None, start.num_processes)
    found["plain"] = {name: run(plain.train, case, PART) for name, case in PLAIN.items()}

    def by(make, cases, model=lambda: None):
        return {
            name: run(partial(with_accelerate.train, make()), case, PART, model())
            for name, case in cases.items()
        }

    found["ddp"] = by(accelerator, DDP)
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)
    found["unused"] = by(lambda: accelerator(unused), UNUSED)
    found["fsdp"] = by(sharding, FSDP)
    found["nested"] = by(sharding, NESTED, nested)
    found["refused"] = refusals()
    given = {"backward": torch.autograd.backward, "all_reduce": plain.average}
    found["groups"] = groups(nested(), lambda b, losses: b.step(losses, **given))
    if start.is_main_process:
        torch.save(found, folder / "found.pt")
    start.end_training()


if __name__ == "__main__":
    work = partial(main, Path(sys.argv[1]))
    work() if "RANK" in os.environ else forked_ranks(work, 2)
