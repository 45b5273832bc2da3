"""How task gradients and losses meet."""

from collections.abc import Callable, Sequence

from taskgrove.balancing.mean import mean
from taskgrove.balancing.pcgrad import PCGrad
from taskgrove.balancing.uncertainty import Uncertainty
from taskgrove.balancing.weighting import Balancer, Statistic, balance
from taskgrove.tasks.task import Task

BALANCERS: dict[str, Callable[[Sequence[Task], int], Balancer]] = {
    "mean": lambda _tasks, _seed: Balancer("mean", mean),
    "uncertainty": lambda tasks, _seed: Balancer(
        "uncertainty", Uncertainty([task.kind == "number" for task in tasks])
    ),
    "pcgrad": lambda _tasks, seed: Balancer("pcgrad", PCGrad(seed), gramian=True),
}
"""A balancer from the tasks, in the model's order, and a seed."""

__all__ = ["BALANCERS", "Balancer", "Statistic", "balance"]
