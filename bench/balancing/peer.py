"""The peers on one case, in their environment; prints one line of JSON.

    .venv-peers/bin/python bench/balancing/peer.py CASE [--quick]

{"versions": ..., "ways": {way: numbers}}; a way that does not run has {"error": ...}.
"""

# pyright: reportMissingImports=false

import json
import sys
import warnings
from importlib.metadata import version

import torch
import way_libmtl
import way_torchjd
import weights
from cases import CASES, build
from measure import calls, measured
from torch import Tensor
from torchjd.aggregation import NashMTL, UPGradWeighting

PACKAGES = ("torch", "torchjd", "LibMTL", "quadprog", "cvxpy", "ecos")
Numbers = dict[str, object]


def steps(name: str, quick: bool) -> dict[str, Numbers]:
    """Each way's cost; a peer's failure is a result too."""
    found: dict[str, Numbers] = {}
    for library, module in {"torchjd": way_torchjd, "LibMTL": way_libmtl}.items():
        for label, way in module.ways(build(name, quick)).items():
            try:
                found[f"{library} {label}"] = measured(name, way, quick)
            except Exception as problem:
                found[f"{library} {label}"] = {"error": f"{type(problem).__name__}: {problem}"}
    return found


def nash(quick: bool) -> dict[str, Numbers]:
    """torchjd's Nash-MTL without its clipping, which only scales a."""
    found: Numbers = {}
    for spread in weights.SPREADS:
        matrices = weights.nash_rows(spread, 3 if quick else 8)
        aggregator = NashMTL(n_tasks=20, max_norm=0.0)

        def weigh(G: Tensor, aggregator: NashMTL = aggregator) -> Tensor:
            return aggregator.weighting(G)

        found[f"ms, rows {spread}"] = calls(weigh, matrices)
        aggregator.reset()
        found[f"residual, rows {spread}"] = weights.worst_residual(weigh, matrices)
    return {"torchjd NashMTL": found}


def upgrad(quick: bool) -> dict[str, Numbers]:
    """torchjd's UPGrad."""
    weighting = UPGradWeighting()
    gramians = [G @ G.T for G in weights.upgrad_rows(3 if quick else 20)]
    return {"torchjd UPGradWeighting": {"ms": calls(weighting, gramians)}}


def main() -> None:
    name, quick = sys.argv[1], "--quick" in sys.argv
    warnings.simplefilter("ignore")  # of the peers' own code
    torch.set_num_threads(1)
    alone = {"nash": nash, "upgrad": upgrad}
    ways = steps(name, quick) if name in CASES else alone[name](quick)
    print(json.dumps({"versions": {p: version(p) for p in PACKAGES}, "ways": ways}))


if __name__ == "__main__":
    main()
