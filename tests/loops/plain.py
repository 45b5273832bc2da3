"""Balancing in a plain PyTorch loop of one's own, alone or in several processes (torchrun).

Three lines are taskgrove's: the import, the Balancer, and `step` in place of `loss.backward()`.
"""

import torch
from torch import distributed
from torch.nn.functional import mse_loss

from taskgrove.balancing import Balancer


def average(tensor):
    distributed.all_reduce(tensor)
    tensor /= distributed.get_world_size()


def train(model, batches, method="upgrad", **options):
    """`batches`: (inputs, a target a task), each process's part of them; None: absent task."""
    own = list(model.heads.parameters())
    balancer = Balancer(method, tasks=len(model.heads), shared=model.trunk, own=own, **options)
    learned = [p for module in balancer.modules for p in module.parameters()]
    optimiser = torch.optim.SGD([*model.parameters(), *learned], lr=0.05)
    reduce = average if distributed.is_initialized() else None
    done = []
    for inputs, targets in batches:
        losses = losses_of(model, inputs, targets)
        optimiser.zero_grad()
        done.append(balancer.step(losses, features=model.features, all_reduce=reduce))
        optimiser.step()
        look_again(balancer, model, inputs, targets, reduce)
    return done


def look_again(balancer, model, inputs, targets, reduce):
    """Only FAMO asks for it: the same batch's losses after the optimiser's step."""
    if balancer.choice.again:
        with torch.no_grad():
            losses = losses_of(model, inputs, targets)
        present = [task for task, loss in enumerate(losses) if loss is not None]
        seen = torch.stack([losses[task] for task in present])
        if reduce is not None:
            reduce(seen)
        balancer.observe(present, seen)


def losses_of(model, inputs, targets):
    outputs = model(inputs)
    return [
        None if target is None else mse_loss(output, target)
        for output, target in zip(outputs, targets, strict=True)
    ]
