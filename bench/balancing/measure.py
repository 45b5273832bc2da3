"""What a step costs, as ratios to the plain summed step of the same process. Torch alone.

FLOPs: torch's own counter (matrix products; element-wise work is not counted).
Time: CPU time of one thread, plain and measured step in turn, the median of the pairs' ratios.
Memory: the highest sum of living bytes above the start (data and parameters there, `.grad` none),
from the profiler's record of each allocation and release of torch's allocator. That sees what a
kernel or the autograd engine asks for inside, in either library alike; a list of living tensors
would not, and resident memory also moves with what the C library keeps back.
"""

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from cases import Case, build, plain
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

Step = Callable[[], None]
MIB, REPEATS = 2**20, 7


@dataclass(frozen=True)
class Cost:
    """`flops`, `time`: ratios to the plain step. `memory`, `plain_memory`: MiB above the start.

    `plain_flops`, `plain_time` (seconds) are what the ratios refer to, a step.
    """

    flops: float
    time: float
    memory: float
    plain_flops: float
    plain_time: float
    plain_memory: float


def measured(name: str, way: Callable[[Case], Step], quick: bool) -> dict[str, Any]:
    """The cost of a way to take a case's step, and the direction of its first step.

    The floor runs on a copy of the case, since a way may put hooks on the modules of its own.
    """
    case, floor = build(name, quick), build(name, quick)
    way(first := build(name, quick))()
    direction = fingerprint([p.grad for p in first.shared() if p.grad is not None])
    floor_step = cleared(lambda: plain(floor), floor)
    found = cost(floor_step, cleared(way(case), case), case.every, 2 if quick else REPEATS)
    return asdict(found) | {"direction": direction}


def cost(plain: Step, step: Step, steps: int, repeats: int) -> Cost:
    """What `steps` steps cost; more than one where a method works only at some of them."""
    for run in (plain, step):
        repeat(run, steps)  # first calls allocate, import and compile
    flops, plain_flops = count(step, steps), count(plain, steps)
    memory, plain_memory = peak(step, steps), peak(plain, steps)
    pairs = [(seconds(plain, steps), seconds(step, steps)) for _ in range(repeats)]
    return Cost(
        flops / plain_flops,
        statistics.median(b / a for a, b in pairs),
        memory / MIB,
        plain_flops / steps,
        statistics.median(a for a, _ in pairs) / steps,
        plain_memory / MIB,
    )


def cleared(step: Step, case: Case) -> Step:
    """The step, after which `.grad` is given up, as any training loop does."""
    parameters = list(case.parameters())

    def run() -> None:
        step()
        for parameter in parameters:
            parameter.grad = None

    return run


def repeat(step: Step, steps: int) -> None:
    for _ in range(steps):
        step()


def count(step: Step, steps: int) -> int:
    """FLOPs of matrix products."""
    with FlopCounterMode(display=False) as counter:
        repeat(step, steps)
    return counter.get_total_flops()


def seconds(step: Step, steps: int) -> float:
    """CPU time."""
    start = time.process_time()
    repeat(step, steps)
    return time.process_time() - start


def peak(step: Step, steps: int) -> int:
    """The highest sum of bytes that the allocator held above the start."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        repeat(step, steps)
    inner: Any = profiler.profiler
    events = [event for event in inner.kineto_results.events() if event.name() == "[memory]"]
    held = highest = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        highest = max(highest, held)
    return highest


def calls(function: Callable[[Tensor], object], arguments: Iterable[Tensor]) -> float:
    """Median milliseconds of CPU time a call, each call with numbers not seen before."""
    times = []
    for argument in arguments:
        start = time.process_time()
        function(argument)
        times.append(time.process_time() - start)
    return statistics.median(times[1:]) * 1000  # the first call builds what later ones reuse


def fingerprint(gradients: Sequence[Tensor]) -> list[float]:
    """Eight inner products with fixed random vectors, and the norm: to tell directions apart."""
    vector = torch.cat([g.detach().flatten() for g in gradients]).double()
    generator = torch.Generator().manual_seed(1)
    random = (torch.randn(len(vector), generator=generator).double() for _ in range(8))
    return [*(float(vector @ other) for other in random), float(vector.norm())]
