"""The log probability of labels that a model draws for itself: what a Fisher is the gradients of.

classes    y ~ Categorical(softmax(z))          log p = log softmax(z)_y
labels     y ~ Bernoulli(sigmoid(z))            log p = sum of each label's
number     y ~ Normal(z, 1)                     log p = -(y - z)^2 / 2, less a constant
tokens     classes at each real token, summed; a causal model's last token has no next one

z: [class], or [token class]
"""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from taskgrove.errors import TaskgroveError

NEXT = ("ForCausalLM", "LMHeadModel")  # classes whose logits are of the next token


def drawn_log_probability(net: nn.Module, batch: Mapping[str, Tensor], seed: int) -> Tensor:
    """log p(y | x) of a batch of one row; the same y for a seed."""
    outputs = net(**batch)
    if "logits" not in outputs:
        raise TaskgroveError(
            f"{type(net).__name__} predicts nothing, so it has no Fisher information: expected a"
            " classifier or a language model."
        )
    z, config = outputs["logits"].float()[0], net.config
    draw = torch.Generator().manual_seed(seed)
    if z.ndim == 1:
        return of_one(z, config, draw)
    real = z[batch["attention_mask"][0].bool()]
    return of_classes(real[:-1] if type(net).__name__.endswith(NEXT) else real, draw)


def of_one(z: Float[Tensor, " class"], config: Any, draw: torch.Generator) -> Tensor:
    """Of a classifier, by its config's kind of problem."""
    if config.problem_type == "multi_label_classification":
        y = torch.bernoulli(z.detach().sigmoid().cpu(), generator=draw).to(z)
        return -binary_cross_entropy_with_logits(z, y, reduction="sum")
    if config.problem_type == "regression" or config.num_labels == 1:
        y = z.detach() + torch.randn(z.shape, generator=draw).to(z)
        return -0.5 * (y - z).square().sum()
    return of_classes(z[None], draw)


def of_classes(z: Float[Tensor, "token class"], draw: torch.Generator) -> Tensor:
    """Summed over tokens."""
    if not len(z):
        return 0 * z.sum()
    y = torch.multinomial(z.detach().softmax(-1).cpu(), 1, generator=draw)[:, 0].to(z.device)
    return -cross_entropy(z, y, reduction="sum")
