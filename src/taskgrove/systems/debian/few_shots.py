"""Ways to learn a new Debian task from k rows a class: what composing task vectors competes with.

All start from MiniLM and the target's frozen label-text head. None sees more than the shots; the
settings were chosen on the development target `interface` (its rows that are not tested).

    probes   min_W  CE(20 z W^T + b) + mu |W - W_0|^2    W_0: 0, or the label-text head
    LoRA     W + (alpha / r) B A in queries and values   Hu et al., ICLR 2022, arXiv 2106.09685
    full     all of the top layers
    single   theta_0 + lambda tau_i, the pair (i, lambda) with the lowest loss on the shots

    z: base features of unit length [row dim]; W: [class dim]; b: [class]; mu: a number
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from taskgrove.merging.learned.atlas import FEW_SHOT
from taskgrove.merging.learned.rounds import drawn
from taskgrove.merging.learned.vectors import add_scaled
from taskgrove.systems.debian.debtag_models import Substrate
from taskgrove.systems.debian.fine_tunes import fit
from taskgrove.systems.debian.merges import vectors
from taskgrove.systems.debian.top_layers import Weights

STEPS, BATCH = 30, 48
COMPOSED = replace(FEW_SHOT, steps=STEPS, learning_rate=1e-2)  # isotropic and aTLAS
PAPER_RATE = 0.1  # of both in the paper
PROBE, TEXT_PROBE = 1e-2, 1e-1  # mu
LORA_RATE, FULL_RATE = 1e-3, 5e-5
RANK, ALPHA = 4, 8
SCALES = (0.25, 0.5, 1.0)  # of a single vector


def shots(world: Substrate, target: str, k: int) -> Int[Tensor, " row"]:
    """The first k training rows of each class."""
    labels = world.parts[target]["train"].labels
    alike = (labels[:, None] == labels).tril(-1)  # earlier rows of the class
    return (alike.sum(1) < k).nonzero()[:, 0]


def steps(world: Substrate) -> int:
    """Of whatever is tuned on the shots."""
    return 4 if world.quick else STEPS


def draw_shots(world: Substrate, target: str, rows: Tensor) -> Callable[[int], dict[str, Tensor]]:
    """step -> a batch of the shots."""
    return lambda step: {target: drawn(rows, step, BATCH, world.seed)}


def probe(world: Substrate, target: str, rows: Tensor, part: str, start: bool) -> Tensor:
    """Logits of a part's rows by a linear classifier of base features."""
    base, head = world.encoder.base(), world.heads[target]
    train = world.parts[target]["train"]
    z = normalize(world.features(base, target, "train", rows), dim=1)
    test = normalize(world.features(base, target, part), dim=1)
    W_0 = head.W if start else torch.zeros_like(head.W)
    W, b = (each.clone().requires_grad_() for each in (W_0, W_0.new_zeros(len(W_0))))
    solver = torch.optim.LBFGS([W, b], max_iter=200, line_search_fn="strong_wolfe")
    mu = TEXT_PROBE if start else PROBE

    def closure() -> Tensor:
        solver.zero_grad()
        loss = cross_entropy(head.scale * z @ W.T + b, train.labels[rows])
        loss = loss + mu * (W - W_0).square().sum()
        loss.backward()
        return loss

    solver.step(closure)
    return (head.scale * test @ W.T + b).detach()


def full(world: Substrate, target: str, rows: Tensor) -> Weights:
    """All of the top layers tuned."""
    draw = draw_shots(world, target, rows)
    return fit(world, world.encoder.base(), draw, [FULL_RATE] * steps(world))


def lora(world: Substrate, target: str, rows: Tensor) -> Weights:
    """Low-rank updates tuned, then merged into the weights."""
    base, draw = world.encoder.base(), draw_shots(world, target, rows)
    names = [n for n in base if n.endswith((".self.query.weight", ".self.value.weight"))]
    generator = torch.Generator().manual_seed(world.seed)
    A, B = {}, {}
    for name in names:
        out, into = base[name].shape
        A[name] = torch.randn(RANK, into, generator=generator).div(into**0.5).requires_grad_()
        B[name] = torch.zeros(out, RANK, requires_grad=True)

    def merged() -> Weights:
        return {n: w + ALPHA / RANK * B[n] @ A[n] if n in A else w for n, w in base.items()}

    adam = torch.optim.AdamW([*A.values(), *B.values()], lr=LORA_RATE)
    for step in range(steps(world)):
        adam.zero_grad()
        world.loss(merged(), draw(step), "train").backward()
        adam.step()
    return {name: w.detach() for name, w in merged().items()}


@torch.no_grad()
def single(world: Substrate, target: str, rows: Tensor) -> Weights:
    """The base with one scaled task vector."""
    tau = vectors(world)
    found: list[tuple[float, Weights]] = []
    for k in range(tau.models):
        for scale in SCALES:
            weights = {name: tau.base(name) for name in tau.names}
            c = torch.zeros(tau.models)
            c[k] = scale
            for name, w in weights.items():
                add_scaled(tau.blocks(name), c, w)
            found.append((world.loss(weights, {target: rows}, "train").item(), weights))
    return min(found, key=lambda pair: pair[0])[1]
