"""System: a published system on one page: what it says, how it is composed, whether it holds.

A claim is made of parts, one an arm and seed, which know nothing of each other: they may run side
by side, and a part that was kept is not run again (see `runs`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from taskgrove.measuring.claim import Claim

Progress = Callable[[str, int, float], None]  # (arm, seed, share done of all parts)
Found = dict[str, Any]  # what a part found, as JSON


@dataclass(frozen=True)
class System:
    """`arms`: their names. `run(arm, seed, quick)`: one part. `conclude(found, seeds)`: the claim
    from {arm: [seed]}. `quick` is the same code at tiny sizes."""

    slug: str
    title: str
    year: int
    link: str
    folders: tuple[str, ...]
    about: str  # three sentences
    expected: str  # the result, as we expect it here
    seconds: float  # on 2 cores
    command: str
    arms: Sequence[str]
    run: Callable[[str, int, bool], Found]
    conclude: Callable[[Mapping[str, list[Found]], Sequence[int]], Claim]
    seeds: int = 5  # of the claim, unless others are asked for

    def claim(self, quick: bool, seeds: Sequence[int], progress: Progress | None = None) -> Claim:
        """Runs all parts, one after the other, in this process; keeps nothing."""
        found: dict[str, list[Found]] = {arm: [] for arm in self.arms}
        count = len(self.arms) * len(seeds)
        for seed in seeds:
            for arm in self.arms:
                found[arm].append(self.run(arm, seed, quick))
                if progress is not None:
                    done = sum(len(each) for each in found.values())
                    progress(arm, seed, done / count)
        return self.conclude(found, seeds)
