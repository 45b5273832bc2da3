"""The cases of static merges and each way's command line, in one table.

mergekit computes in bfloat16, its fastest; ours and the script in fp32. Of mergekit's options for
speed and memory, --lazy-unpickle is for pickles and --low-cpu-memory for accelerators: neither
changes anything here (tried); threads and asynchronous writes do, so both settings run.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent
Command = list[str]


@dataclass(frozen=True)
class Case:
    """`ours`: options of `taskgrove merge`; `weights`: a model's parameters in mergekit's YAML."""

    ours: tuple[str, ...]
    mergekit: str
    weights: Mapping[str, float] = field(default_factory=dict)
    shared: Mapping[str, object] = field(default_factory=dict)
    tuned: int = 3
    base: bool = True
    random: bool = False  # so outputs cannot be compared
    also: tuple[str, ...] = ()  # options of a second way of ours


CASES = {
    "linear": Case(("average",), "linear", {"weight": 1.0}, base=False),
    "task_arithmetic": Case(
        ("task_arithmetic", "--scale", "0.3"), "task_arithmetic", {"weight": 0.3}
    ),
    "ties": Case(
        ("ties", "--density", "0.2", "--scale", "1.0", "--trim", "tensor"),
        "ties",
        {"weight": 1.0, "density": 0.2},
        {"normalize": True},
        also=("ties", "--density", "0.2", "--scale", "1.0", "--trim", "model"),
    ),
    "dare": Case(
        ("dare", "--density", "0.2", "--scale", "0.3"),
        "dare_linear",
        {"weight": 0.3, "density": 0.2},
        random=True,
    ),
    "slerp": Case(("slerp", "--t", "0.5"), "slerp", shared={"t": 0.5}, tuned=1),
}


def inputs(case: Case, folder: Path) -> list[Path]:
    """What the case reads, the base first."""
    tuned = [folder / f"tuned{k + 1}" for k in range(case.tuned)]
    return [folder / "base", *tuned] if case.base else tuned


def ours(options: Sequence[str], models: Sequence[Path], out: Path, base: bool) -> Command:
    """taskgrove's own command; without a base, all models are tuned ones."""
    head = [str(Path(sys.executable).with_name("taskgrove")), "merge", *options]
    head += ["--base", str(models[0])] if base else []
    return [*head, "--tuned", *map(str, models[1:] if base else models), "--out", str(out)]


def mergekit(case: Case, python: Path, models: Sequence[Path], out: Path) -> Command:
    """mergekit-yaml; its configuration lies beside the output (JSON is YAML)."""
    tuned = models[1:] if case.base and case.mergekit != "slerp" else models
    recipe: dict[str, object] = {
        "merge_method": case.mergekit,
        "models": [{"model": str(m), "parameters": dict(case.weights)} for m in tuned],
        "dtype": "bfloat16",
    }
    if case.base:
        recipe["base_model"] = str(models[0])
    if case.shared:
        recipe["parameters"] = dict(case.shared)
    path = out.with_name(f"{out.name}.yml")
    path.write_text(json.dumps(recipe))
    return [str(python.with_name("mergekit-yaml")), str(path), str(out), "--quiet"]


def commands(name: str, python: Path, folder: Path, out: Path) -> dict[str, Command]:
    """Each way's command; `python` is the peers', left out where it is not built."""
    case = CASES[name]
    models = inputs(case, folder)
    listed = [str(m) for m in models]
    # slerp's script, like ours, takes two models and no base
    ways = {"taskgrove": ours(case.ours, models, out, case.base and name != "slerp")}
    if case.also:
        ways[f"taskgrove {' '.join(case.also[-2:])}"] = ours(case.also, models, out, case.base)
    if python.exists():
        plain = mergekit(case, python, models, out)
        ways["mergekit"] = [*plain, "-j", "1"]
        ways["mergekit -j 2 --async-write"] = [*plain, "-j", "2", "--async-write"]
    ways["script"] = [sys.executable, str(HERE / "script.py"), name, str(out), *listed]
    ways["cold taskgrove"] = ways["taskgrove"]
    ways["cold copy"] = [sys.executable, str(HERE / "cold_copy.py"), str(out), *listed]
    return ways
