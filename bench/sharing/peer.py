"""PEFT's side, in the peers' environment: answers run.py's questions (see encoders.py).

    .venv-peers-sharing/bin/python bench/sharing/peer.py DIM FOLDER

FOLDER holds what ours.py wrote: the adapters, which are taken over, and its outputs, from which the
greatest difference is printed. Mixed batches run by `adapter_names`, which PEFT has for inference.
"""

# pyright: reportMissingImports=false

import sys
from collections.abc import Callable
from importlib.metadata import version
from itertools import count
from pathlib import Path

import torch
from encoders import (
    ALPHA,
    RANK,
    TASKS,
    Mix,
    answer,
    drop_gradients,
    encoder,
    mixes,
    once,
    tokens,
    train,
)  # fmt: skip
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from torch import nn

Ways = dict[str, Callable[[], object]]
SITES = ["query", "key", "value", "dense"]


def config() -> LoraConfig:
    return LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=SITES, lora_dropout=0.0)


def build(dim: int) -> PeftModel:
    model = get_peft_model(encoder(dim), config(), adapter_name="0")
    for n in range(1, TASKS):
        model.add_adapter(str(n), config())
    model.set_adapter("0")
    return model.eval()


def take(model: PeftModel, file: Path) -> None:
    """The adapters of the file."""
    given = load_file(file)
    modules = dict(model.base_model.model.named_modules())
    with torch.no_grad():
        for name, value in given.items():
            site, kind = name.rsplit(".", 1)
            layers = getattr(modules[site], f"lora_{kind}")
            for n in range(TASKS):
                layers[str(n)].weight.copy_(value[n])


def names_of(mix: Mix) -> list[str]:
    return [str(t) for t, size in zip(mix.tasks, mix.sizes, strict=True) for _ in range(size)]


def difference(model: PeftModel, file: Path) -> float:
    """The greatest, over all mixes of tasks."""
    given, worst = load_file(file), 0.0
    for name, mix in mixes().items():
        with torch.inference_mode():
            mine = model(input_ids=tokens(16), adapter_names=names_of(mix)).last_hidden_state
        worst = max(worst, float((mine - given[name]).abs().max()))
    return worst


def forwards(dim: int, model: PeftModel) -> Ways:
    """The base without PEFT; one adapter, as `set_adapter` leaves it; mixed batches."""
    bare, ids = encoder(dim), {seq: tokens(seq) for seq in (16, 1)}

    def run(which: nn.Module, seq: int, **options: object) -> None:
        with torch.inference_mode():
            which(input_ids=ids[seq], **options)

    ways: Ways = {}
    for seq in (16, 1):
        ways[f"forward seq {seq} base"] = lambda seq=seq: run(bare, seq)
        ways[f"forward seq {seq} one"] = lambda seq=seq: run(model, seq)
        for name, mix in mixes().items():
            names = names_of(mix)
            ways[f"forward seq {seq} {name}"] = lambda seq=seq, names=names: run(
                model, seq, adapter_names=names
            )
    return ways


def steps(dim: int, model: PeftModel) -> Ways:
    """A step of one adapter; AdamW over the tensors of all, in torch's three ways."""
    ids, signal = tokens(16), torch.randn(64, 16, dim, generator=torch.Generator().manual_seed(3))
    one = [p for p in model.parameters() if p.requires_grad]
    every = [p for name, p in model.named_parameters() if "lora_" in name]
    own = torch.optim.AdamW(one, lr=1e-9)
    gradients = [torch.full_like(p, 1e-3) for p in every]

    def step(move: bool) -> None:
        train(model, ids, signal)
        if move:
            own.step()
        drop_gradients(one)

    def move(optimiser: torch.optim.Optimizer) -> None:
        for parameter, gradient in zip(every, gradients, strict=True):
            parameter.grad = gradient
        optimiser.step()
        drop_gradients(every)

    ways: Ways = {"train one": lambda: step(False), "train+AdamW one": lambda: step(True)}
    for kind, options in {"": {}, " foreach": {"foreach": True}, " fused": {"fused": True}}.items():
        optimiser = torch.optim.AdamW(every, lr=1e-9, **options)
        ways[f"AdamW 64 adapters{kind}"] = lambda optimiser=optimiser: move(optimiser)
    return ways


def grown(dim: int) -> tuple[Ways, float]:
    """`add_adapter` grows one model from 64 adapters on, and seconds of the first call;
    `set_adapter`, each time another one."""
    model, names, turns = build(dim), count(), count()

    def add() -> None:
        model.add_adapter(f"new {next(names)}", config())

    def switch() -> None:
        model.set_adapter(str(next(turns) % TASKS))

    first = once(add)
    return {"add a task": add, "set the task": switch}, first


def main() -> None:
    dim, folder = int(sys.argv[1]), Path(sys.argv[2])
    torch.set_num_threads(1)
    model = build(dim)
    take(model, folder / "adapters.safetensors")
    apart = difference(model, folder / "outputs.safetensors")
    tensors = sum("lora_" in name for name, _ in model.named_parameters())
    more, first = grown(dim)
    versions = {name: version(name) for name in ("peft", "torch", "transformers")}
    facts = {"difference": apart, "tensors": tensors, "first": first, "versions": versions}
    answer(forwards(dim, model) | steps(dim, model) | more, facts)


if __name__ == "__main__":
    main()
