"""Balancing in a loop of Lightning Fabric's.

In mixed precision Fabric lets no backward pass but its own through a model that it has set up:
take precision="32-true" and torch.autocast around the forward pass, or "bf16-true".
"""

import torch

from loops.plain import look_again, losses_of
from taskgrove.balancing import Balancer


def train(fabric, model, batches, method="upgrad", **options):
    """As `plain.train`."""
    shared, heads = model.trunk, len(model.heads)
    balancer = Balancer(method, tasks=heads, shared=shared, **options)
    learned = [p for module in balancer.modules for p in module.parameters()]
    optimiser = torch.optim.SGD([*model.parameters(), *learned], lr=0.05)
    wrapped, optimiser = fabric.setup(model, optimiser)

    def average(tensor):
        tensor.copy_(fabric.all_reduce(tensor, reduce_op="mean"))

    done = []
    for inputs, targets in batches:
        losses = losses_of(wrapped, inputs, targets)
        optimiser.zero_grad()
        done.append(
            balancer.step(
                losses, features=model.features, backward=fabric.backward, all_reduce=average
            )
        )
        optimiser.step()
        look_again(balancer, wrapped, inputs, targets, average)
    return done
