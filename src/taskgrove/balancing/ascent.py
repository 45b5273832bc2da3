"""ascent: the step up that sharpness-aware methods take, and the exact way back.

    eps = rho g / |g|        over all of the given parameters together; none where g = 0

Weights are kept before the step and put back bit for bit, whatever happens in between. A batch that
is evaluated again sees the noise (dropout) of its first evaluation, and leaves no trace in running
statistics (BatchNorm's) or any other buffer.
Cost: one copy of the weights moved, one of the buffers.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

Noise = tuple[Tensor, Tensor | None]  # the random numbers' state, of the CPU and of a GPU


def uphill(gradient: Mapping[nn.Parameter, Tensor], rho: float) -> dict[nn.Parameter, Tensor]:
    """eps; empty where the gradient is zero or no finite number."""
    parts = [torch.linalg.vector_norm(g, dtype=torch.float64).item() for g in gradient.values()]
    norm = math.hypot(*parts)
    if norm == 0 or not math.isfinite(norm):
        return {}
    return {p: g / norm * rho for p, g in gradient.items()}


@contextmanager
def climbed(eps: Mapping[nn.Parameter, Tensor]) -> Iterator[None]:
    """While open the weights are w + eps; afterwards w, bit for bit."""
    kept = {p: p.detach().clone() for p in eps}
    try:
        _write({p: w + eps[p] for p, w in kept.items()})
        yield
    finally:
        _write(kept)


def _write(weights: Mapping[nn.Parameter, Tensor]) -> None:
    with torch.no_grad():
        for parameter, value in weights.items():
            parameter.copy_(value)
    torch.clear_autocast_cache()  # it would go on with the weights of before


def noise() -> Noise:
    """The random numbers' state now, on the CPU and on the current GPU."""
    cuda = torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None
    return torch.get_rng_state(), cuda


def set_noise(state: Noise) -> None:
    """Goes back to `state`."""
    cpu, cuda = state
    torch.set_rng_state(cpu)
    if cuda is not None:
        torch.cuda.set_rng_state(cuda)


@contextmanager
def again(state: Noise, buffers: Sequence[Tensor]) -> Iterator[None]:
    """While open, noise is that of `state`; afterwards noise and buffers are as they were."""
    now, kept = noise(), [buffer.detach().clone() for buffer in buffers]
    set_noise(state)
    try:
        yield
    finally:
        set_noise(now)
        with torch.no_grad():
            for buffer, value in zip(buffers, kept, strict=True):
                buffer.copy_(value)
