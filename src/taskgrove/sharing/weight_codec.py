"""WeightCodec: the tensors of an adapter as one vector, and back.

Shao et al., "In-Context Meta LoRA Generation", IJCAI 2025, arXiv 2501.17635.

    w = [(W_1 - m_1) / s_1, ..., (W_n - m_n) / s_n]       W_i = s_i w_i + m_i

Symbols: W_i the tensors in the order of their names, each laid flat; w [number]; m_i, s_i mean and
deviation of a tensor, `stats` [tensor 2]. As in the authors' code they may be those of one
checkpoint; then they are needed to decode, and tell the task. Differs from the paper: `statistics`
of all tasks' checkpoints are offered too, which tell nothing and are kept once; a tensor of equal
numbers has deviation 1.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from taskgrove.errors import TaskgroveError, listed

Shapes = tuple[tuple[str, tuple[int, ...]], ...]


@dataclass(frozen=True)
class WeightCodec:
    """Names and shapes of the tensors."""

    shapes: Shapes

    @property
    def numbers(self) -> int:
        """The length of w."""
        return sum(math.prod(shape) for _, shape in self.shapes)

    def encode(
        self, state: Mapping[str, Tensor], stats: Float[Tensor, "tensor 2"] | None = None
    ) -> tuple[Float[Tensor, " number"], Float[Tensor, "tensor 2"]]:
        """w and the statistics that decode it; the checkpoint's own where none are given."""
        alike(self.shapes, state)
        flat = [state[name].float().flatten() for name, _ in self.shapes]
        stats = statistics([state]) if stats is None else stats
        parts = [(w - m) / s for w, (m, s) in zip(flat, stats, strict=True)]
        return torch.cat(parts), stats

    def decode(
        self, w: Float[Tensor, " number"], stats: Float[Tensor, "tensor 2"]
    ) -> dict[str, Tensor]:
        """The tensors; what w holds beyond its numbers is padding."""
        parts = w[: self.numbers].split([math.prod(shape) for _, shape in self.shapes])
        pairs = zip(self.shapes, parts, stats, strict=True)
        return {name: (s * part + m).view(shape) for (name, shape), part, (m, s) in pairs}


def codec_of(states: Sequence[Mapping[str, Tensor]]) -> WeightCodec:
    """A codec of checkpoints that hold the same tensors; others are refused with their names."""
    if not states:
        raise TaskgroveError("no checkpoint was given: give at least one")
    shapes = tuple((name, tuple(states[0][name].shape)) for name in sorted(states[0]))
    for state in states:
        alike(shapes, state)
    return WeightCodec(shapes)


def statistics(states: Sequence[Mapping[str, Tensor]]) -> Float[Tensor, "tensor 2"]:
    """Mean and deviation of each tensor over all checkpoints."""
    found = []
    for name in sorted(states[0]):
        every = torch.stack([state[name].float() for state in states])
        s = every.std(correction=0)
        found.append(torch.stack([every.mean(), s if s > 0 else torch.ones(())]))
    return torch.stack(found)


def alike(shapes: Shapes, state: Mapping[str, Tensor]) -> None:
    """Raises TaskgroveError unless the tensors have these names and shapes."""
    wanted, found = dict(shapes), {name: tuple(w.shape) for name, w in state.items()}
    differ = sorted(name for name in wanted | found if wanted.get(name) != found.get(name))
    if differ:
        each = [f"{n} {found.get(n, 'missing')} not {wanted.get(n, 'missing')}" for n in differ]
        raise TaskgroveError(
            f"a checkpoint has other tensors than the first: {listed(each, 8)}; give adapters of"
            " one rank on the same modules"
        )
