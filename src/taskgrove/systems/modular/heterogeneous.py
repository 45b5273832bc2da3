"""Training on batches of one task each, in turn, and what is measured on the result.

"An Efficient General-Purpose Modular Vision Model via Multi-Task Heterogeneous Training", Chen et
al. 2023, arXiv 2306.17165: each step shows one data set, so the shares of experts that the mutual
information needs are running estimates (see sharing/route_losses).
"""

import copy
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from taskgrove.sharing.chosen import Chosen
from taskgrove.sharing.route_losses import blended, mutual_information, switch_balance
from taskgrove.systems.modular.expert_vit import EXPERTS, ExpertVit, extracted
from taskgrove.systems.modular.vision_tasks import Split

BATCH, RATE, DECAY = 32, 1e-3, 0.95


def new_model(classes: list[int], seed: int, *, experts: bool) -> ExpertVit:
    """From a seed, leaving the global generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ExpertVit(classes, experts=experts)


def train(
    model: ExpertVit,
    parts: dict[int, Split],
    steps: int,
    seed: int,
    loss: str = "none",
    weight: float = 0.0,
    own: Sequence[nn.Parameter] | None = None,
) -> None:
    """`steps` for each task, in turn; Adam with a warm-up and a cosine. `parts`: rows by number of
    the task; `own`: what is trained, or all."""
    own, total = list(model.parameters()) if own is None else list(own), steps * len(parts)
    optimiser = torch.optim.Adam(own, lr=RATE)
    use = torch.full((len(model.mixtures()), len(model.heads), EXPERTS), 1 / EXPERTS)
    generators = {task: torch.Generator().manual_seed(seed * 100 + task) for task in parts}
    for step in range(total):
        task = list(parts)[step % len(parts)]
        x, y = parts[task]
        rows = torch.randint(len(x), (BATCH,), generator=generators[task])
        logits, chosen = model(x[rows], task)
        found = cross_entropy(logits, y[rows])
        if loss != "none":
            found = found + weight * _routers(loss, chosen, use, task)
        optimiser.zero_grad()
        found.backward()
        nn.utils.clip_grad_norm_(own, 1.0)
        warm, done = min(1.0, (step + 1) / (0.05 * total)), step / total
        for group in optimiser.param_groups:
            group["lr"] = RATE * warm * (0.5 + 0.5 * math.cos(math.pi * done))
        optimiser.step()


def _routers(loss: str, chosen: list[Chosen], use: Tensor, task: int) -> Tensor:
    """Summed over the mixtures, whose running shares move."""
    terms = []
    for n, each in enumerate(chosen):
        if loss == "switch_balance":
            terms.append(switch_balance(each))
            continue
        fresh = each.probabilities.mean(0, keepdim=True)
        P = blended(use[n], fresh, torch.tensor([task]), DECAY)
        use[n] = P.detach()
        terms.append(-mutual_information(P))
    return torch.stack(terms).sum()


@torch.no_grad()
def accuracy(model: ExpertVit, part: Split, task: int) -> float:
    """In percent."""
    x, y = part
    right = [
        (model(a, task)[0].argmax(1) == b) for a, b in zip(x.split(128), y.split(128), strict=True)
    ]
    return 100 * torch.cat(right).double().mean().item()


@torch.no_grad()
def masses(model: ExpertVit, part: Split, task: int) -> list[Tensor]:
    """The mass of a task's gates on each expert [expert], a mixture each."""
    total = [torch.zeros(EXPERTS) for _ in model.mixtures()]
    for x in part[0].split(128):
        for held, chosen in zip(total, model(x, task)[1], strict=True):
            gates = chosen.route.weights
            held.index_add_(0, chosen.route.group_of, gates)  # pyright: ignore[reportArgumentType]
    return [held / held.sum() for held in total]


def pruned(
    model: ExpertVit, mass: list[Tensor], part: Split, task: int, keep: float
) -> tuple[float, float]:
    """Share of the experts kept, in percent, and the small model's accuracy."""
    small = copy.deepcopy(model)
    counts = extracted(small, task, mass, keep)
    return 100 * sum(counts) / (EXPERTS * len(counts)), accuracy(small, part, 0)
