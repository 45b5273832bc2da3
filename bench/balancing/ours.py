"""taskgrove on one case, in the project's environment; prints one line of JSON as peer.py does.

python bench/balancing/ours.py CASE [--quick]
"""

import json
import sys
from importlib.metadata import version
from typing import cast

import torch
import weights
from cases import CASES, Case
from measure import Step, calls, measured
from torch import Tensor

from taskgrove import balancing
from taskgrove.balancing.choice import Setup, Statistic, Weighting
from taskgrove.balancing.weigh import weigh

Numbers = dict[str, object]


def balanced(case: Case) -> Step:
    """The three lines of a user's own loop."""
    balancer = balancing.Balancer(
        "upgrad", tasks=case.tasks, shared=case.shared(), level=case.level, every=case.every
    )

    def step() -> None:
        balancer.step(case.losses())

    return step


def weighting(name: str, K: int) -> weights.Weigh:
    """G -> w, the Gramian and what the step does around a weighting included."""
    made = cast(Weighting, balancing.BALANCERS[name].make(Setup(tasks=K)))
    tasks, share = torch.arange(K), torch.full((K,), 1 / K, dtype=torch.float64)
    losses = torch.ones(K, dtype=torch.float64)

    def answer(G: Tensor) -> Tensor:
        return weigh(made, Statistic(tasks, share, 0, losses, G @ G.T)).weights

    return answer


def named(part: str) -> str:
    """The name of a method in the table."""
    return next(name for name in balancing.BALANCERS if part in name)


def nash(quick: bool) -> Numbers:
    found: Numbers = {}
    answer = weighting(named("nash"), 20)
    for spread in weights.SPREADS:
        matrices = weights.nash_rows(spread, 3 if quick else 8)
        found[f"ms, rows {spread}"] = calls(answer, matrices)
        found[f"residual, rows {spread}"] = weights.worst_residual(answer, matrices)
    return found


def upgrad(quick: bool) -> Numbers:
    return {"ms": calls(weighting(named("upgrad"), 100), weights.upgrad_rows(3 if quick else 20))}


def main() -> None:
    name, quick = sys.argv[1], "--quick" in sys.argv
    torch.set_num_threads(1)
    alone = {"nash": nash, "upgrad": upgrad}
    found = measured(name, balanced, quick) if name in CASES else alone[name](quick)
    print(json.dumps({"versions": {"torch": version("torch")}, "ways": {"taskgrove": found}}))


if __name__ == "__main__":
    main()
