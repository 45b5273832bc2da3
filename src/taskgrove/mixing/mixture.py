"""Which rows come next: a systematic draw over atoms, then each atom's rows in shuffled epochs.

Random numbers by counter: John K. Salmon et al., 2011, "Parallel Random Numbers: As Easy as
1, 2, 3", https://doi.org/10.1145/2063384.2063405.

A round is B = max(1, atoms // n) draws of n rows, so that it has about as many rows as there are
atoms. In draw b = 0 .. B-1 of a round, for i = 0 .. n-1:

    u_i = (i + ((b + s_i) mod B + U) / B) / n
    a_i = the atom with  P_(a-1) <= u_i < P_a,  P = running sum of p in the round's order of atoms
    row_i = the next row of a_i in the permutation of its current epoch

p: probabilities of the atoms [atom], see `atoms.py`; U: uniform in [0, 1), s: shifts uniform in
0 .. B-1 [n], and a random order of the atoms, all three new in each round.

Each u_i is uniform in the i-th of n equal strata, so every expectation is exact. A round visits
each of n B equally spaced points once, so the count of an atom over a whole round is less than 1
away from its expectation: few rows wait long, even if every row is an atom of its own. The order
is random because in a fixed one, tasks that share a stratum would never meet in a batch.

A random number depends on (seed, purpose, place) alone, and the raw output of Philox is the same
in every version of numpy. So the state is a seed, a step, a count for each atom and the rates;
every rank makes the same draw without communication, and a resumed run goes on exactly. A draw
costs O(n log atoms); a row takes 8 bytes (its number, and its place in the current epoch).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Int, UInt64

from taskgrove.errors import TaskgroveError
from taskgrove.mixing.atoms import Labels, fingerprint, group, per_task, probabilities
from taskgrove.mixing.static import rates as shares

ROUND, BATCH, EPOCH = 0, 1, 2  # purposes of random numbers


@dataclass(frozen=True)
class Plan:
    """The rows of one batch."""

    table: Int[np.ndarray, " batch"]  # a place in `Mixture.tables`
    row: Int[np.ndarray, " batch"]  # the table's number of the row


@final
class Mixture:
    """Rates over tasks and the small state of a draw, which is saved with a checkpoint.

    Adaptive rates are a function of the losses that `observe` is told, handed to `set_rates`.
    The rates are part of the state, so such a mixture resumes exactly as well.
    """

    def __init__(
        self, labels: Mapping[str, Labels], rates: Mapping[str, float | int], seed: int = 0
    ) -> None:
        if not 0 <= seed < 2**63:
            raise TaskgroveError(f"The seed is {seed}; expected 0 or above, and below 2**63.")
        self.seed = seed
        self.step = 0  # the next step
        self.tables = tuple(labels)
        self.tasks = tuple(dict.fromkeys(task for part in labels.values() for task in part.tasks))
        self._atoms = group(labels, self.tasks)
        self._data = fingerprint(self._atoms, self.tables + self.tasks)
        self._drawn = np.zeros(len(self._atoms.size), np.int64)  # [atom]
        self._order = self._atoms.rows.copy()  # [row], each atom's rows in the order of
        self._epoch = np.full(len(self._atoms.size), -1)  # [atom], this epoch; -1: not yet in use
        self.set_rates(rates)

    def draw(self, step: int, n: int) -> Plan:
        """The `n` rows of a step. Steps only go up, since each draw takes the next rows."""
        if step < self.step or n < 1:
            raise ValueError(
                f"draw(step={step}, n={n}): expected a step from {self.step} on, and n above 0"
            )
        atom = self._pick(n)
        first = np.flatnonzero(np.diff(atom, prepend=-1))  # equal atoms stand side by side
        times = np.diff(first, append=n)
        count = self._drawn[atom] + np.arange(n) - np.repeat(first, times)
        row = self._rows(atom, count)
        self._drawn[atom[first]] += times
        self._total += n
        self.step = step + 1
        shuffled = np.argsort(_random(self.seed, BATCH, step, 0, n), kind="stable")
        return Plan(self._atoms.table[atom][shuffled], row[shuffled])

    def _pick(self, n: int) -> np.ndarray:
        """The atoms `a` of the next draw, equal ones side by side."""
        B = max(1, len(self._p) // n)
        turn, b = divmod(self._total // n, B)
        if self._round != (turn, n):
            self._round = turn, n
            live = np.flatnonzero(self._p)
            random = _random(self.seed, ROUND, turn, n, 1 + n + len(live))
            self._U = int(random[0] >> np.uint64(11)) * 2.0**-53
            self._s = (random[1 : n + 1] % np.uint64(B)).astype(np.int64)
            self._line = live[np.argsort(random[n + 1 :], kind="stable")]
            self._P = np.cumsum(self._p[self._line])
        u = (np.arange(n) + ((b + self._s) % B + self._U) / B) / n
        place = np.searchsorted(self._P, u * self._P[-1], side="right")
        return self._line[np.minimum(place, len(self._line) - 1)]  # u may round up to 1

    def _rows(self, atom: np.ndarray, count: np.ndarray) -> np.ndarray:
        """Row number `count` of each atom, counted over all its epochs."""
        size, start = self._atoms.size[atom], self._atoms.start[atom]
        epoch, place = np.divmod(count, size)
        row = self._order[start + place]  # final where the atom's epoch goes on
        for i in np.flatnonzero((self._epoch[atom] != epoch) & (size > 1)):
            if self._epoch[atom[i]] != epoch[i]:
                mine = slice(start[i], start[i] + size[i])
                random = _random(self.seed, EPOCH, int(epoch[i]), int(atom[i]), int(size[i]))
                self._order[mine] = self._atoms.rows[mine][np.argsort(random, kind="stable")]
                self._epoch[atom[i]] = epoch[i]
            row[i] = self._order[start[i] + place[i]]
        return row

    @property
    def rates(self) -> dict[str, float]:
        return dict(zip(self.tasks, self._r.tolist(), strict=True))

    @property
    def sizes(self) -> dict[str, int]:
        """How many rows have a label of each task."""
        return {task: int(size) for task, size in self._by_task(self._atoms.size).items()}

    def set_rates(self, rates: Mapping[str, float | int]) -> None:
        """New rates from the next draw on; epochs go on where they were."""
        scaled = shares(self.sizes, weights=rates)
        self._use(np.array([scaled[task] for task in self.tasks], np.float64))

    def _use(self, r: np.ndarray) -> None:
        self._r, self._p = r, probabilities(self._atoms, r)
        self._total, self._round = int(self._drawn.sum()), (-1, 0)

    def observe(self, losses: Mapping[str, float]) -> None:
        """Hears the validation losses; fixed rates do not listen."""

    def expected(self, n: int) -> dict[str, float]:
        """The exact expectation of the number of labels of each task in `n` draws."""
        return self._by_task(n * self._p)

    def counts(self) -> dict[str, int]:
        """How many labels of each task were drawn so far."""
        return {task: int(count) for task, count in self._by_task(self._drawn).items()}

    def epochs(self) -> dict[str, float]:
        """How many times each task's labels were seen, on average."""
        sizes = self.sizes
        return {task: count / max(sizes[task], 1) for task, count in self.counts().items()}

    def _by_task(self, values: np.ndarray) -> dict[str, float]:
        sums = per_task(self._atoms, values, len(self.tasks))
        return dict(zip(self.tasks, sums.tolist(), strict=True))

    def state(self) -> dict[str, np.ndarray]:
        """All that `load` needs, in a mixture of the same rows and tasks, to go on exactly."""
        return {
            "data": np.array(self._data),
            "seed": np.array(self.seed),
            "step": np.array(self.step),
            "drawn": self._drawn.copy(),  # [atom]
            "rates": self._r.copy(),  # [task]
        }

    def load(self, state: Mapping[str, np.ndarray]) -> None:
        """Goes back to a saved state, its seed included."""
        if int(state["data"]) != self._data:
            raise TaskgroveError(
                "The saved mixture was made for other rows, labels or tasks than these; "
                "expected the same: restore them, or start again in a new folder."
            )
        self.seed, self.step = int(state["seed"]), int(state["step"])
        self._drawn = state["drawn"].astype(np.int64)
        self._epoch[:] = -1
        self._use(state["rates"].astype(np.float64))


def _random(seed: int, purpose: int, a: int, b: int, n: int) -> UInt64[np.ndarray, " n"]:
    """`n` numbers of 64 random bits that depend on the other arguments alone."""
    counter = np.array([0, a, b, purpose], np.uint64)  # the first word counts the outputs
    return np.random.Philox(key=np.array([seed, 0], np.uint64), counter=counter).random_raw(n)
