"""How task gradients and losses meet."""

from taskgrove.balancing.balancer import Balancer
from taskgrove.balancing.batch import Balanced
from taskgrove.balancing.choice import Choice, Statistic
from taskgrove.balancing.table import BALANCERS

__all__ = ["BALANCERS", "Balanced", "Balancer", "Choice", "Statistic"]
