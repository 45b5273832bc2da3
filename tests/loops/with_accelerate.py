"""Balancing in a loop of accelerate's: one process, DDP or FSDP2, as its configuration says.

The gradients end in one ordinary backward pass, accelerator.backward, so DDP and FSDP reduce them
as ever. Make the Balancer after `prepare`, which may put other parameters into the model.
"""

import torch

from loops.plain import look_again, losses_of
from taskgrove.balancing import Balancer


def train(accelerator, model, batches, method="upgrad", **options):
    """As `plain.train`."""
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05)
    model, optimiser = accelerator.prepare(model, optimiser)
    bare = accelerator.unwrap_model(model)
    balancer = Balancer(method, tasks=len(bare.heads), shared=bare.trunk, **options)
    for module in balancer.modules:
        optimiser.add_param_group({"params": list(module.parameters())})

    def average(tensor):
        tensor.copy_(accelerator.reduce(tensor, "mean"))

    done = []
    for inputs, targets in batches:
        losses = losses_of(model, inputs, targets)
        optimiser.zero_grad()
        done.append(
            balancer.step(
                losses, features=bare.features, backward=accelerator.backward, all_reduce=average
            )
        )
        optimiser.step()
        look_again(balancer, model, inputs, targets, average)
    return done
