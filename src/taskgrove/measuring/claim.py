"""Claim: what a published system promises, held against measurements with paired seeds.

Student, The Probable Error of a Mean, Biometrika 1908 (the paired t interval).

A statement asks whether an effect is at least `least`. Its differences, one a seed, pair two sides
that shared data, initial weights and batches; the interval is the 95 % t interval of their mean:

    mean +- t(0.975, n - 1) sd / sqrt(n)        n seeds; sd with n - 1

    holds               mean >= least and low > 0;      "not worse": low > -margin
    does not hold here  high < least
    undecided           otherwise, and always with one seed

A margin is for statements of the kind "not worse than", whose `least` is 0: they fail where the
interval lies below 0, however near. The raw numbers of each arm and seed are kept.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

import numpy as np
from scipy.stats import t as student

from taskgrove.measuring.bootstrap import Interval

Verdict = Literal["holds", "does not hold here", "undecided"]


@dataclass(frozen=True)
class Statement:
    """One question: is the effect at least `least`? `differences` [seed].

    `margin`: how much below 0 still passes for "not worse"; None where better is asked for.
    `decides`: the claim's verdict depends on it; others are there to be read.
    """

    question: str
    differences: list[float]
    least: float = 0.0
    margin: float | None = None
    decides: bool = True

    @property
    def effect(self) -> float:
        """The mean difference."""
        return float(np.mean(self.differences))

    @property
    def interval(self) -> Interval:
        """Of the effect; not a number with one seed."""
        return t_interval(self.differences)

    @property
    def verdict(self) -> Verdict:
        """See the top of this file."""
        low, high = self.interval
        if math.isnan(low):
            return "undecided"
        if high < self.least:
            return "does not hold here"
        good = low > 0 and self.effect >= self.least if self.margin is None else low > -self.margin
        return "holds" if good else "undecided"

    def sentence(self) -> str:
        """The verdict with effect and interval."""
        low, high = self.interval
        n = len(self.differences)
        spread = f"95 % interval {low:+.2f} to {high:+.2f}, {n} seeds" if n > 1 else "one seed"
        return f"{self.question}: {self.verdict}, {self.effect:+.2f} ({spread})"


@dataclass(frozen=True)
class Claim:
    """The record of a claim.

    `scores`: {group: {arm: [seed]}}, such as a data set's arms, each run as its validation data
    chose; `curves`: {title: {arm: {x: [seed]}}}; `raw`: all that the runs found, {arm: [seed]}.
    """

    system: str
    metric: str
    seeds: list[int]
    scores: dict[str, dict[str, list[float]]]
    statements: list[Statement]
    curves: dict[str, dict[str, dict[str, list[float]]]] = field(default_factory=dict)
    raw: dict[str, list[Any]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def verdict(self) -> Verdict:
        """It holds where all deciding statements do; one that does not hold decides against it."""
        found = {statement.verdict for statement in self.statements if statement.decides}
        if "does not hold here" in found:
            return "does not hold here"
        return "holds" if found == {"holds"} else "undecided"

    def to_json(self) -> dict[str, Any]:
        """Plain values, what follows from them included."""
        statements = [
            {
                **asdict(s),
                "effect": s.effect,
                "interval": list(s.interval),
                "verdict": s.verdict,
                "sentence": s.sentence(),
            }
            for s in self.statements
        ]
        return {**asdict(self), "statements": statements, "verdict": self.verdict}

    @staticmethod
    def of(facts: Mapping[str, Any]) -> "Claim":
        """From `to_json`, whatever else stands beside it."""
        own = {f.name: facts[f.name] for f in fields(Claim)}
        names = [f.name for f in fields(Statement)]
        own["statements"] = [Statement(**{n: s[n] for n in names}) for s in facts["statements"]]
        return Claim(**own)


def t_interval(differences: Sequence[float]) -> Interval:
    """The 95 % interval of a mean.

    >>> [round(end, 3) for end in t_interval([1.0, 2.0, 3.0])]
    [-0.484, 4.484]
    """
    n = len(differences)
    if n < 2:
        return math.nan, math.nan
    mean, sd = float(np.mean(differences)), float(np.std(differences, ddof=1))
    half = float(student.ppf(0.975, n - 1)) * sd / math.sqrt(n)
    return mean - half, mean + half


def paired(ours: Sequence[Sequence[float]], theirs: Sequence[Sequence[float]]) -> list[float]:
    """Differences a seed, averaged over pairs of arms [arm][seed]."""
    return (np.asarray(ours) - np.asarray(theirs)).mean(0).tolist()
