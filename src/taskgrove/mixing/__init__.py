"""Which task's examples come next."""

from collections.abc import Callable

from taskgrove.mixing.atoms import Labels
from taskgrove.mixing.mixture import Mixture, Plan
from taskgrove.mixing.static import Group, fixed, nested, proportional, rates, temperature, uniform

RATES: dict[str, Callable[..., dict[str, float]]] = {
    "proportional": proportional,
    "temperature": temperature,
    "uniform": uniform,
    "fixed": fixed,
}

__all__ = [
    "RATES",
    "Group",
    "Labels",
    "Mixture",
    "Plan",
    "fixed",
    "nested",
    "proportional",
    "rates",
    "temperature",
    "uniform",
]
