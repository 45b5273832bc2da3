"""Devices and processes, carried by accelerate: one CPU process up to many machines."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from accelerate import PartialState
from torch import Tensor

from taskgrove.training.options import Precision


@cache
def processes() -> PartialState:
    """This process's place: `device`, `process_index`, `num_processes`, `is_main_process`."""
    return PartialState(cpu=not torch.cuda.is_available())


def this_device() -> torch.device:
    """Where this process computes."""
    return torch.device(processes().device or "cpu")


def all_reduce(tensor: Tensor) -> None:
    """Sums a tensor over processes, in place."""
    if processes().num_processes > 1:
        torch.distributed.all_reduce(tensor)


def agreed(seconds: float) -> float:
    """The mean over processes, so that all of them stop and look at the same step."""
    world = processes().num_processes
    if world == 1:
        return seconds
    shared = torch.tensor([seconds], dtype=torch.float64, device=this_device())
    all_reduce(shared)
    return shared.item() / world


def gather(items: list[Any]) -> list[Any]:
    """The items of all processes, in order of process."""
    world = processes().num_processes
    if world == 1:
        return items
    parts: list[Any] = [None] * world
    torch.distributed.all_gather_object(parts, items)
    return [item for part in parts for item in part]


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Runs a block on `count` CPU threads; None leaves torch's choice."""
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def wait() -> None:
    """Returns when each process is here."""
    processes().wait_for_everyone()


def number_type(precision: Precision, device: torch.device) -> torch.dtype:
    """The type that products are computed in; `auto` is bf16 where an accelerator has it."""
    if precision == "auto":
        fast = device.type == "cuda" and torch.cuda.is_bf16_supported()
        return torch.bfloat16 if fast else torch.float32
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
