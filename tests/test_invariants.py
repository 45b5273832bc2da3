"""Every balancing method against what it declares of itself, on random and degenerate gradients.

A method declares invariants in its `Choice`; CHECKS holds one assertion for each name. What no
method may do, declared or not, is in `test_never_raises` and the tests after it.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from taskgrove import balancing
from taskgrove.balancing.choice import Choice, Invariant, Setup, Statistic

KINDS = (
    "gaussian", "conflicting", "duplicated", "opposed", "near-opposed", "zero row", "all zero",
    "spread",
)  # fmt: skip


def choices():
    """Each Choice in a file of the folder: CHOICE by the file's name, another by its own."""
    found = {}
    for path in sorted(Path(balancing.__file__).parent.glob("*.py")):
        if "= Choice(" in path.read_text("utf-8"):
            module = import_module(f"{balancing.__name__}.{path.stem}")
            own = {name: value for name, value in vars(module).items() if isinstance(value, Choice)}
            found |= {path.stem if n == "CHOICE" else n.lower(): value for n, value in own.items()}
    return found


TABLE = choices()
DECLARED = [(name, what) for name in TABLE for what in sorted(TABLE[name].invariants)]


@dataclass(frozen=True)
class Step:
    """What a batch shows."""

    tasks: torch.Tensor
    share: torch.Tensor
    losses: torch.Tensor
    rows: torch.Tensor
    rounded: bool = False  # the Gramian of gradients in single precision, PSD only up to rounding

    def statistic(self, number, choice):
        rows = self.rows.float() if self.rounded else self.rows
        M = (rows @ rows.T).double()
        M = (M + M.T) / 2 if choice.needs == "gramian" else None
        return Statistic(self.tasks, self.share, number, self.losses, M)

    @property
    def independent(self):
        """Whether the rows' directions are clearly so."""
        norms = self.rows.norm(dim=1, keepdim=True)
        few = len(self.rows) <= self.rows.shape[1] and bool((norms > 0).all())
        return few and float(torch.linalg.cond(self.rows / norms)) < 1e3

    def times(self, c):
        """Each loss times c [task] or c []."""
        c = torch.as_tensor(c, dtype=torch.float64).expand(len(self.rows))
        return replace(self, losses=self.losses * c, rows=self.rows * c[:, None])

    def take(self, order):
        share = self.share[order] / self.share[order].sum()
        fields = {"losses": self.losses[order], "rows": self.rows[order], "share": share}
        return replace(self, tasks=self.tasks[order], **fields)


@dataclass(frozen=True)
class Problem:
    """A short training run of K tasks with n shared parameters; small enough to be printed."""

    kind: str
    K: int
    n: int
    seed: int
    power: int  # c = 2^power

    @cached_property
    def setup(self):
        numbers = [bool(x) for x in np.random.default_rng(self.seed + 1).random(self.K) < 0.5]
        return Setup(self.K, self.seed, numbers, self.n)

    @cached_property
    def chosen(self):
        """A task, and an order of the tasks."""
        rng = np.random.default_rng(self.seed + 2)
        return int(rng.integers(self.K)), torch.from_numpy(rng.permutation(self.K))

    @cached_property
    def steps(self):
        rng = np.random.default_rng(self.seed)
        share = np.full(self.K, 1.0) if rng.random() < 0.5 else rng.uniform(0.1, 1, self.K)
        size = 10 ** (rng.uniform(-6, 6, self.K) if self.kind == "spread" else np.zeros(self.K))
        losses = size * np.exp(rng.normal(size=self.K)) * (self.kind != "all zero")
        if self.kind == "zero row":  # a task that is done
            losses[self.chosen[0]] = 0
        return [
            Step(
                torch.arange(self.K),
                torch.from_numpy(share / share.sum()),
                torch.from_numpy(losses * np.exp(0.3 * rng.normal(size=self.K) - 0.2 * number)),
                torch.from_numpy(self._rows(rng) * size[:, None]),
            )
            for number in range(3)
        ]

    def _rows(self, rng):
        K, one, other = self.K, 0, self.K - 1
        G = rng.normal(size=(K, self.n))
        if self.kind == "conflicting":
            G -= G.mean(0) * rng.uniform(0.9, 2.0)
        elif self.kind == "duplicated":
            G[other] = G[one]
        elif self.kind == "opposed" and K > 1:
            G[other] = -G[one] * 2.0 ** rng.integers(-2, 3)
        elif self.kind == "near-opposed" and K > 1:
            G[other] = -G[one] + 10 ** rng.uniform(-12, -3) * rng.normal(size=self.n)
        elif self.kind == "zero row":
            G[self.chosen[0]] = 0
        elif self.kind == "all zero":
            G[:] = 0
        return G

    def stationary(self):
        """The same, with rows of which a convex combination is 0: of all, or only of some."""
        rng = np.random.default_rng(self.seed + 3)
        last = -torch.from_numpy(rng.uniform(0.2, 2, self.K - 1))
        if self.seed % 2 and self.K > 2:
            last[rng.integers(self.K - 1)] = 0
        for step in self.steps:
            step.rows[-1] = last @ step.rows[:-1]  # K = 1: 0
        return self.steps


problems = st.builds(
    Problem, st.sampled_from(KINDS), st.integers(1, 8), st.integers(1, 10),
    st.integers(0, 2**16), st.integers(-20, 20),
)  # fmt: skip


@dataclass(frozen=True)
class Answer:
    """w (None for an aggregator), d, and the size of what was summed to d."""

    step: Step
    w: torch.Tensor | None
    d: torch.Tensor
    size: float


def ask(choice, weighting, step, number):
    """One step of training, as the loop does it."""
    statistic = step.statistic(number, choice)
    if choice.needs == "rows":
        return Answer(step, None, weighting(statistic, step.rows), float(step.rows.abs().sum()))
    w, objective = weighting(statistic)
    again = step.statistic(number, choice).gramian
    assert again is None or torch.equal(statistic.gramian, again)  # M is as it was
    if objective is not None:
        objective.backward()
        for parameter in weighting.parameters():
            if parameter.grad is not None:
                parameter.data -= 0.1 * parameter.grad
                parameter.grad = None
    if choice.again:
        weighting.observe(step.tasks, step.losses * 0.9)
    size = (w.abs() * step.rows.norm(dim=1)).sum()
    return Answer(step, w, w @ step.rows, float(size))


def run(name, setup, steps):
    """The answers to all steps; to the last one alone where no state connects them."""
    weighting = TABLE[name].make(setup)
    numbered = list(enumerate(steps))
    numbered = numbered if isinstance(weighting, nn.Module) else numbered[-1:]
    return [ask(TABLE[name], weighting, step, number) for number, step in numbered]


def near(a, b, size, tolerance=1e-6):
    return float((a - b).abs().max()) <= tolerance * size


# One assertion for each name that a method may declare


def permutation(name, problem):
    _, order = problem.chosen
    expected = run(name, problem.setup, problem.steps)
    answers = run(name, problem.setup, [step.take(order) for step in problem.steps])
    for a, b in zip(answers, expected, strict=True):
        assert near(a.d, b.d, b.size)
        if a.w is not None and b.step.independent:  # else only d is determined
            assert near(a.w, b.w[order], float(b.w.abs().max()))


def scale(name, problem):
    c = 2.0**problem.power
    expected = run(name, problem.setup, problem.steps)
    answers = run(name, problem.setup, [step.times(c) for step in problem.steps])
    for a, b in zip(answers, expected, strict=True):
        assert torch.equal(a.d, c * b.d) if a.w is None else torch.equal(a.w, b.w)


def row_scale(name, problem):
    task, _ = problem.chosen
    c = torch.ones(problem.K, dtype=torch.float64)
    c[task] = 2.0 ** (problem.power / 4)
    expected = run(name, problem.setup, problem.steps)
    answers = run(name, problem.setup, [step.times(c) for step in problem.steps])
    for a, b in zip(answers, expected, strict=True):
        length = float(a.d.norm()), float(b.d.norm())
        if length[0] > 1e-4 * a.size and length[1] > 1e-4 * b.size:  # else M's rounding shows in d
            assert near(a.d / length[0], b.d / length[1], 1.0)


def non_conflict(name, problem):
    for answer in run(name, problem.setup, problem.steps):
        norms = answer.step.rows.norm(dim=1)
        allowed = 1e-6 * norms * answer.d.norm() + 1e-9 * norms * answer.size
        assert ((answer.step.rows @ answer.d) >= -allowed).all()


def stationarity(name, problem):
    for answer in run(name, problem.setup, problem.stationary()):
        assert float(answer.d.norm()) <= 1e-6 * float(answer.step.rows.norm(dim=1).max())


def one_task(name, problem):
    task, _ = problem.chosen
    alone = [step.take([task]) for step in problem.steps]
    after_others = run(name, problem.setup, [*problem.steps[:-1], alone[-1]])[-1]
    renumbered = [replace(step, tasks=torch.tensor([0])) for step in alone]
    answers = run(name, Setup(1, 0, problem.setup.numbers[:1], problem.n), renumbered)
    for answer in [*answers, after_others]:
        assert answer.w is None or answer.w.tolist() == [1.0]
        assert torch.equal(answer.d, answer.step.rows[0])


def absent_task(name, problem):
    gap, _ = problem.chosen
    setup = problem.setup
    numbers = [*setup.numbers[:gap], True, *setup.numbers[gap:]]
    tasks = torch.tensor([t + (t >= gap) for t in range(problem.K)])
    expected = run(name, setup, problem.steps)
    steps = [replace(step, tasks=tasks) for step in problem.steps]
    answers = run(name, replace(setup, tasks=setup.tasks + 1, numbers=numbers), steps)
    for a, b in zip(answers, expected, strict=True):
        assert near(a.d, b.d, b.size, 1e-9)
        assert a.w is None or near(a.w, b.w, float(b.w.abs().max()), 1e-9)


CHECKS = {
    "permutation": permutation,
    "scale": scale,
    "row scale": row_scale,
    "non-conflict": non_conflict,
    "stationarity": stationarity,
    "one task": one_task,
    "absent task": absent_task,
}


def hold(check, name, examples, fixed=True):
    @settings(max_examples=examples, deadline=None, derandomize=fixed, database=None)
    @given(problems)
    def every_problem(problem):
        check(name, problem)

    every_problem()


@pytest.mark.parametrize(("name", "what"), DECLARED)
def test_declared(name, what):
    hold(CHECKS[what], name, 30)


# Every method, whatever it declares


def robust(name, problem):
    """Finite answers of the right shape and type; inputs and the global generator stay; repeats."""
    choice, steps = TABLE[name], problem.steps
    sign = -1 if problem.power % 5 == 0 else 1  # a likelihood's loss may lie below 0
    steps = [replace(s, rounded=problem.power % 2 == 1, losses=sign * s.losses) for s in steps]
    before = [[t.clone() for t in (s.tasks, s.share, s.losses, s.rows)] for s in steps]
    state = torch.get_rng_state()
    answers = run(name, problem.setup, steps)
    assert torch.equal(state, torch.get_rng_state())
    for answer, old in zip(answers, before[-len(answers) :], strict=True):
        step = answer.step
        assert answer.d.shape == step.rows[0].shape
        assert answer.d.dtype == step.rows.dtype
        assert answer.d.isfinite().all()
        if choice.needs != "rows":
            assert answer.w.shape == step.share.shape
            assert answer.w.dtype == torch.float64
            assert not answer.w.requires_grad
            assert answer.w.isfinite().all()
        now = (step.tasks, step.share, step.losses, step.rows)
        assert all(torch.equal(a, b) for a, b in zip(now, old, strict=True))
    for a, b in zip(answers, run(name, problem.setup, steps), strict=True):
        assert torch.equal(a.d, b.d)


def resumes(name, problem):
    """A weighting's state is its state_dict; one that is no module has none."""
    choice, (*first, last) = TABLE[name], problem.steps
    whole = choice.make(problem.setup)
    for number, step in enumerate(first):
        ask(choice, whole, step, number)
    resumed = choice.make(problem.setup)
    if isinstance(whole, nn.Module):
        resumed.load_state_dict(whole.state_dict())
    a, b = (ask(choice, weighting, last, len(first)) for weighting in (whole, resumed))
    assert torch.equal(a.d, b.d)


@pytest.mark.parametrize("name", TABLE)
def test_never_raises(name):
    hold(robust, name, 40)


@pytest.mark.parametrize("name", TABLE)
def test_a_resumed_weighting_goes_on_as_if_uninterrupted(name):
    hold(resumes, name, 8)


@pytest.mark.slow
@pytest.mark.parametrize("name", TABLE)
def test_on_many_more_problems(name):
    for check in (robust, resumes, *(CHECKS[what] for what in sorted(TABLE[name].invariants))):
        hold(check, name, 300, fixed=False)


# The declarations


def test_every_declaration_is_meaningful():
    assert set(CHECKS) == set(get_args(Invariant))
    for what in CHECKS:
        declaring = {name for name, choice in TABLE.items() if what in choice.invariants}
        assert set() < declaring < set(TABLE), what


def test_the_table_is_the_files():
    assert balancing.BALANCERS == TABLE
