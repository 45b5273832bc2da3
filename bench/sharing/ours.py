"""taskgrove's side: answers run.py's questions (see encoders.py); writes the adapters it drew.

python bench/sharing/ours.py DIM FOLDER
"""

import sys
from collections.abc import Callable
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
from safetensors.torch import save_file
from torch import Tensor, nn

from taskgrove.sharing.lora import LoRA
from taskgrove.sharing.route import Route
from taskgrove.sharing.sharing import Sharing
from taskgrove.training.slots import SlotAdamW

Ways = dict[str, Callable[[], object]]


def route_of(mix: Mix) -> Route:
    """A batch's route, made anew for each batch."""
    starts = tuple(sum(mix.sizes[:n]) for n in range(len(mix.sizes) + 1))
    return Route((), torch.arange(starts[-1]), starts, mix.tasks)


def build(dim: int) -> tuple[nn.Module, Sharing]:
    """An encoder with parts, whose B is drawn too, so that they do something."""
    trunk = encoder(dim).requires_grad_(False)
    sharing = Sharing(
        trunk, [("encoder.*", LoRA(RANK, ALPHA))], [f"task {n}" for n in range(TASKS)]
    )
    generator = torch.Generator().manual_seed(2)
    for B in sharing.parts[0].B.values():
        B.data.normal_(std=0.02, generator=generator)
    return trunk, sharing


def outputs(trunk: nn.Module, sharing: Sharing, folder: Path) -> None:
    """Adapters as PEFT names them, and what the encoder gives with each mix of tasks."""
    found: dict[str, Tensor] = {}
    parts = sharing.parts[0]
    for site in parts.points():
        pairs = [parts.of_task(site, n) for n in range(TASKS)]
        found[f"{site}.A"] = torch.stack([A for A, _ in pairs]).detach()
        found[f"{site}.B"] = torch.stack([B.t() for _, B in pairs]).detach().contiguous()
    save_file(found, folder / "adapters.safetensors")
    given = {}
    for name, mix in mixes().items():
        with torch.inference_mode(), sharing.using(route_of(mix)):
            given[name] = trunk(input_ids=tokens(16)).last_hidden_state.clone()
    save_file(given, folder / "outputs.safetensors")


def forwards(trunk: nn.Module, sharing: Sharing) -> Ways:
    """Without a route the trunk is the base."""

    def run(seq: int, mix: Mix) -> None:
        with torch.inference_mode(), sharing.using(route_of(mix)):
            trunk(input_ids=ids[seq])

    ids = {seq: tokens(seq) for seq in (16, 1)}
    return {
        f"forward seq {seq} {name}": lambda seq=seq, mix=mix: run(seq, mix)
        for seq in (16, 1)
        for name, mix in mixes().items()
    }


def steps(dim: int, trunk: nn.Module, sharing: Sharing) -> Ways:
    """Training steps, without and with AdamW over all 64 adapters; AdamW alone."""
    ids, signal = tokens(16), torch.randn(64, 16, dim, generator=torch.Generator().manual_seed(3))
    parameters = list(sharing.parameters())
    optimiser = SlotAdamW([{"params": parameters, "slots": True}], lr=1e-9)

    def step(mix: Mix, move: bool) -> None:
        with sharing.using(route_of(mix)):
            train(trunk, ids, signal)
        if move:
            optimiser.present = mix.tasks
            optimiser.step()
        drop_gradients(parameters)

    def move(present: range) -> None:
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        optimiser.present = present
        optimiser.step()
        drop_gradients(parameters)

    gradients = [torch.full_like(parameter, 1e-3) for parameter in parameters]
    ways: Ways = {}
    for name, mix in mixes().items():
        ways[f"train {name}"] = lambda mix=mix: step(mix, False)
        ways[f"train+AdamW {name}"] = lambda mix=mix: step(mix, True)
    return {
        **ways,
        "AdamW 64 adapters": lambda: move(range(64)),
        "AdamW 16 of 64 adapters": lambda: move(range(0, 64, 4)),
    }


def grown(dim: int) -> tuple[Ways, float]:
    """`add` grows one model from 64 tasks on; and seconds of the first call."""
    names, (_, sharing), mix = count(), build(dim), mixes()["N=1"]

    def add() -> None:
        sharing.add(f"new {next(names)}")

    first = once(add)
    return {"add a task": add, "set the task": lambda: route_of(mix)}, first


def main() -> None:
    dim, folder = int(sys.argv[1]), Path(sys.argv[2])
    torch.set_num_threads(1)
    trunk, sharing = build(dim)
    outputs(trunk, sharing, folder)
    ids = {seq: tokens(seq) for seq in (16, 1)}

    def base(seq: int) -> None:
        with torch.inference_mode():
            bare(input_ids=ids[seq])

    bare = encoder(dim)
    ways: Ways = {f"forward seq {seq} base": lambda seq=seq: base(seq) for seq in (16, 1)}
    more, first = grown(dim)
    ways |= forwards(trunk, sharing) | steps(dim, trunk, sharing) | more
    answer(ways, {"tensors": len(list(sharing.parameters())), "first": first})


if __name__ == "__main__":
    main()
