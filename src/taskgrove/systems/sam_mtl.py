"""sam_mtl: task-based sharpness-aware steps (see balancing/task_sam).

On your own data: `taskgrove train sam_mtl --tasks tasks.yaml --out model`, or in your own loop
`TaskSAM("cagrad", tasks=2, shared=trunk, rho_shared=0.1).step(losses_of)`.

The experiment: the left and the right digit of an image of two (see suites/two_digits). Each seed
draws its own digits for training, validation and test, 400 training pairs, batches and weights; all
arms of a seed share them. `noisy`: 30 % of the right labels are drawn at random, in validation as
in training, since who has noisy labels has no clean ones to choose by; test pairs are clean. Each
arm that has a setting tries four values, and validation alone chooses.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np
import torch
from torch import Tensor, nn

from taskgrove.balancing import Balancer
from taskgrove.balancing.sam import sam
from taskgrove.balancing.task_sam import TaskSAM
from taskgrove.measuring.claim import Claim, Statement, paired
from taskgrove.measuring.sharpness import sharpness
from taskgrove.suites.two_digits import Split, pairs
from taskgrove.systems.system import Found, System

NOISE = {"noisy": 0.3, "clean": 0.0}
METHODS = ("mgda", "pcgrad", "cagrad", "imtl_g", "nash")
RHO = (0.05, 0.1, 0.3, 1.0)
ARMS: dict[str, tuple[float, ...]] = {  # the values that validation chooses from
    "mean": (0.0,),
    **dict.fromkeys(METHODS, (0.0,)),
    **dict.fromkeys(["F-mean", *(f"F-{name}" for name in METHODS)], RHO),
    "sam": RHO,
    "weight_decay": (0.1, 0.3, 1.0, 3.0),  # AdamW's
    "early_stopping": (0.1, 0.25, 0.5, 1.0),  # of the steps
    "long_mean": (0.0,),  # as many backward passes as F-X: four times the steps
}


@dataclass(frozen=True)
class Size:
    """How large the experiment is."""

    steps: int = 400
    pairs: tuple[int, int, int] = (400, 1000, 3000)  # training, validation, test


FULL, QUICK = Size(), Size(6, (64, 64, 128))


class Net(nn.Module):
    """MLP 144-128-128 and a linear head a task."""

    def __init__(self) -> None:
        super().__init__()
        layers = nn.Linear(144, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU()
        self.trunk = nn.Sequential(*layers)
        self.heads = nn.ModuleList([nn.Linear(128, 10), nn.Linear(128, 10)])

    def losses(self, x: Tensor, y: Tensor, tasks: Sequence[int] = (0, 1)) -> list[Tensor]:
        """A loss for each of `tasks`."""
        z = self.trunk(x)
        return [nn.functional.cross_entropy(self.heads[t](z), y[t]) for t in tasks]

    @torch.no_grad()
    def accuracy(self, split: Split) -> float:
        """Mean over the tasks, in percent."""
        z, y = self.trunk(split[0]), split[1]
        right = [(self.heads[t](z).argmax(1) == y[t]).double().mean() for t in (0, 1)]
        return 100 * torch.stack(right).mean().item()


def gradient(arm: str, net: Net, value: float, seed: int) -> Callable[[Tensor, Tensor], object]:
    """The arm's way to fill `.grad` from a batch."""
    if arm == "sam":
        weights = list(net.parameters())
        return lambda x, y: sam(lambda: torch.stack(net.losses(x, y)).mean(), weights, value)
    if arm.startswith("F-"):
        ours = TaskSAM(arm[2:], 2, shared=net.trunk, rho_shared=value, seed=seed)
        return lambda x, y: ours.step(lambda tasks: net.losses(x, y, tasks))
    plain = Balancer(arm if arm in METHODS else "mean", 2, shared=net.trunk, seed=seed)
    return lambda x, y: plain.step(net.losses(x, y))


def train(arm: str, value: float, data: list[Split], seed: int, steps: int) -> Iterator[Net]:
    """The net after each step: Adam, batches of 64."""
    (x, y), net = data[0], _net(seed)
    decay = value if arm == "weight_decay" else 0.0
    optimiser = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=decay)
    fill, generator = gradient(arm, net, value, seed), torch.Generator().manual_seed(seed)
    for _ in range(steps):
        rows = torch.randperm(len(x), generator=generator)[:64]
        optimiser.zero_grad()
        fill(x[rows], y[:, rows])
        optimiser.step()
        yield net


def _net(seed: int) -> Net:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Net()


def run(arm: str, seed: int, quick: bool) -> Found:
    """{noisy, clean: {values, validation, test, sharpness, seconds, chosen}} of an arm and seed."""
    size = QUICK if quick else FULL
    values = ARMS[arm][: 2 if quick else None]
    return {name: _tried(arm, values, seed, noise, size) for name, noise in NOISE.items()}


def _tried(arm: str, values: Sequence[float], seed: int, noise: float, size: Size) -> Found:
    data = pairs(seed, noise, size.pairs)
    steps = size.steps * (4 if arm == "long_mean" else 1)
    found: Found = {"values": list(values), "validation": [], "test": [], "sharpness": []}
    start = perf_counter()
    for value in values[-1:] if arm == "early_stopping" else values:
        stops = [round(v * steps) for v in values] if arm == "early_stopping" else [steps]
        for step, net in enumerate(train(arm, value, data, seed, steps), 1):
            if step in stops:
                for name, split in zip(("validation", "test"), data[1:], strict=True):
                    found[name].append(net.accuracy(split))
                found["sharpness"].append(_sharpness(net, data[0]))
    best = int(np.argmax(found["validation"]))
    return {**found, "seconds": perf_counter() - start, "chosen": best}


def _sharpness(net: Net, split: Split) -> float:
    """Mean over the tasks, each climbing by itself through trunk and head."""
    climbs = [[*net.trunk.parameters(), *net.heads[t].parameters()] for t in (0, 1)]
    return float(
        np.mean([sharpness(lambda t=t: net.losses(*split, [t])[0], climbs[t]) for t in (0, 1)])
    )


def conclude(found: Mapping[str, list[Found]], seeds: Sequence[int]) -> Claim:
    """The statements, from what each arm and seed found."""
    scores = {
        group: {arm: [part[group]["test"][part[group]["chosen"]] for part in parts]
                for arm, parts in found.items()}
        for group in NOISE
    }  # fmt: skip
    curves = {
        f"{group}, by rho": {
            arm: {str(rho): [part[group]["test"][n] for part in found[arm]]
                  for n, rho in enumerate(found[arm][0][group]["values"])}
            for arm in found if ARMS[arm] == RHO
        }
        for group in NOISE
    }  # fmt: skip

    def less(group: str, theirs: Sequence[str], ours: Sequence[str] = METHODS) -> list[float]:
        sharp = [scores[group][f"F-{name}"] for name in ours]
        return paired(sharp, [scores[group][arm] for arm in theirs])

    five = len(METHODS)
    statements = [
        Statement("noisy: F-X is 1 point or more above X", less("noisy", METHODS), 1.0),
        Statement("noisy: F-X is not below plain SAM", less("noisy", ["sam"] * five), 0.0, 0.5),
        *(
            Statement(f"noisy: F-X is above {arm}", less("noisy", [arm] * five), decides=False)
            for arm in ("weight_decay", "early_stopping", "long_mean")
        ),
        *(
            Statement(f"noisy: F-{x} is above {x}", less("noisy", [x], [x]), decides=False)
            for x in ("mean", *METHODS)
        ),
        Statement("clean: F-X is above X", less("clean", METHODS), decides=False),
        Statement("clean: F-X is not below plain SAM", less("clean", ["sam"] * five), 0.0, 0.5,
                  decides=False),
    ]  # fmt: skip
    return Claim("sam_mtl", "mean test accuracy of both tasks, %", list(seeds), scores, statements,
                 curves, dict(found))  # fmt: skip


SYSTEM = System(
    slug="sam_mtl",
    title="Improving Multi-task Learning via Seeking Task-based Flat Regions, Phan et al.",
    year=2022,
    link="https://arxiv.org/abs/2211.13723",
    folders=("balancing", "measuring"),
    about="Each task takes its gradient where its own loss is worst nearby. The plain gradients and"
    " what the climb added to them are combined in two calls of any balancing method X. F-X is to"
    " reach weights around which every task's loss is low.",
    expected="Under label noise F-X is 1 to 3 points above X; plain SAM, at half the cost or less,"
    " does as well; with clean labels neither is needed.",
    seconds=1200,
    command="taskgrove reproduce sam_mtl",
    arms=tuple(ARMS),
    run=run,
    conclude=conclude,
    seeds=10,
)
