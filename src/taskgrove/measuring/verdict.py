"""The verdict on a method: one label, one plain sentence.

It is "better" or "worse" only if the whole 95 % interval of delta-m lies on that side of 0.
"""

from collections.abc import Sequence

from taskgrove.errors import listed

BETTER = "better than separate models"
WORSE = "worse than separate models"
UNDECIDED = "no difference shown"


def verdict(
    method: str,
    mean: float,
    interval: tuple[float, float],
    *,
    tasks: int,
    seeds: int,
    left_out: Sequence[str] = (),
) -> tuple[str, str]:
    """The label, and the sentence; `tasks` is how many count in delta-m.

    >>> label, sentence = verdict("joint", 1.94, (0.41, 3.3), tasks=6, seeds=2)
    >>> print(sentence)  # doctest: +NORMALIZE_WHITESPACE
    joint: better than separate models by 1.9 % on average over 6 tasks
    (95 % interval 0.4 to 3.3, 2 seeds)
    """
    label = _label(mean, interval)
    without = f"; left out, separate models not shown to score above 0: {listed(left_out)}"
    ending = without if left_out else ""
    if tasks == 0:
        return UNDECIDED, f"{method}: {UNDECIDED}, no task has a relative gain{ending}"
    if label == WORSE:  # "worse by 1.2 % (0.3 to 2.0)", without minus signs
        mean, interval = -mean, (-interval[1], -interval[0])
    size = f"{_percent(mean)} % on average over {_several(tasks, 'task')}"
    low, high = (_percent(end) for end in interval)
    only = ": the interval covers test rows only" if seeds == 1 else ""
    certainty = f"95 % interval {low} to {high}, {_several(seeds, 'seed')}{only}"
    said = f"{label}," if label == UNDECIDED else f"{label} by"
    return label, f"{method}: {said} {size} ({certainty}){ending}"


def _label(mean: float, interval: tuple[float, float]) -> str:
    if interval[0] > 0 and mean > 0:
        return BETTER
    if interval[1] < 0 and mean < 0:
        return WORSE
    return UNDECIDED


def _percent(value: float) -> str:
    """One decimal, more where that would hide that the value is not zero."""
    return f"{value:.1f}" if value == 0 or abs(value) >= 0.1 else f"{value:.1g}"


def _several(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
