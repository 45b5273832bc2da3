"""diagnostics: how the tasks' gradients met, and what weights they got, between two looks.

    cos_ij     = M_ij / sqrt(M_ii M_jj)            mean over the steps that measured the Gramian M
    conflicts  = share of pairs with cos_ij < 0    over those steps and all present pairs
    weight_t   = w_t / share_t                     mean over the steps with task t; 1: the mean's

M is there where a balancing method needs it, so it costs nothing but a division; under methods that
see losses only it is measured every `Options.watch` steps. A task without a gradient in a step
meets nobody in it. Symbols: tasks i, j, t; M [task task]; w, share [task].
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float64

from taskgrove.balancing import Balanced

MOST = 32  # tasks of the cosine matrix: the first ones; conflicts and weights are of all


@dataclass
class Diagnostics:
    """Sums since the last look, as plain JSON: they lie in the checkpoint's record.

    `cosines`: {task: {later task: [sum, steps]}}; `weights`: {task: [sum, steps]}.
    """

    cosines: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    weights: dict[str, list[float]] = field(default_factory=dict)
    conflicts: int = 0
    pairs: int = 0
    fallbacks: int = 0

    def add(self, balanced: Balanced, names: Sequence[str]) -> None:
        """One step over its present tasks, called `names`."""
        self.fallbacks += balanced.fallback
        multiples = (balanced.weights / balanced.share).tolist()
        for name, multiple in zip(names, multiples, strict=True):
            _count(self.weights, name, multiple)
        M = None if balanced.gramian is None else balanced.gramian.numpy()
        if M is not None and np.isfinite(M).all():
            self._meet(M, balanced.tasks, names)

    def _meet(
        self, M: Float64[np.ndarray, "task task"], numbers: Sequence[int], names: Sequence[str]
    ) -> None:
        alive = np.flatnonzero(M.diagonal() > 0)
        below = int(np.count_nonzero(M < 0))  # each pair twice; a task without a gradient has none
        self.conflicts += below // 2
        self.pairs += len(alive) * (len(alive) - 1) // 2
        order = sorted((p for p in alive.tolist() if numbers[p] < MOST), key=lambda p: numbers[p])
        rows = cosines(M[np.ix_(order, order)]).tolist()
        for i, row in enumerate(rows):
            met = self.cosines.setdefault(names[order[i]], {})
            for j in range(i + 1, len(order)):
                _count(met, names[order[j]], row[j])

    def summary(self, order: Sequence[str]) -> dict[str, Any]:
        """What a look keeps, as JSON; empty where there is nothing to tell.

        `cosines` and `conflicts` where a Gramian was measured; `weights` where one left its share.
        `order`: all tasks of the model. A pair that never met has no cosine: None.
        """
        found: dict[str, Any] = {}
        if self.cosines:
            tasks = [name for name in order if name in self.cosines]
            values = [[self._cosine(a, b) for b in tasks] for a in tasks]
            found["cosines"] = {"tasks": tasks, "values": values}
            found["conflicts"] = self.conflicts / self.pairs if self.pairs else None
        means = {name: total / steps for name, (total, steps) in self.weights.items()}
        if any(mean != 1 for mean in means.values()):
            found["weights"] = {name: means[name] for name in order if name in means}
        if found or self.fallbacks:
            found["fallbacks"] = self.fallbacks
        return found

    def _cosine(self, a: str, b: str) -> float | None:
        if a == b:
            return 1.0
        total, steps = self.cosines[a].get(b) or self.cosines[b].get(a) or (0.0, 0)
        return total / steps if steps else None

    def reset(self) -> None:
        """Begins anew, after a look."""
        self.cosines, self.weights = {}, {}
        self.conflicts = self.pairs = self.fallbacks = 0


def cosines(M: Float64[np.ndarray, "task task"]) -> Float64[np.ndarray, "task task"]:
    """cos_ij of a Gramian whose diagonal is positive."""
    norms = np.sqrt(M.diagonal())
    return (M / norms[:, None] / norms).clip(-1, 1)


def _count(sums: dict[str, list[float]], name: str, value: float) -> None:
    total = sums.setdefault(name, [0.0, 0])
    total[0] += value
    total[1] += 1
