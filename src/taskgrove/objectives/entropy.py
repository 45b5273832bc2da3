"""Prediction entropy: how undecided a model is about each example, without its label.

Grandvalet and Bengio, "Semi-supervised Learning by Entropy Minimization", NeurIPS 2004,
https://papers.nips.cc/paper/2740-semi-supervised-learning-by-entropy-minimization; at test time:
Wang et al., "Tent", ICLR 2021, arXiv 2006.10726; over merging coefficients: AdaMerging.

    classes:  H(z) = -sum_c p_c log p_c,                          p = softmax(z)
    labels:   H(z) =  sum_c -p_c log p_c - (1 - p_c) log(1 - p_c), p = sigmoid(z)

    z: logits [batch class]; H in nats [batch]

Computed in fp32 (fp64 stays fp64). A class masked out by a logit of -inf contributes nothing.
Difference from the papers: the form for multi-label tasks ("labels") is our extension; it treats
the labels of an example as independent. A number has no entropy of this kind and is refused.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from taskgrove.errors import TaskgroveError, did_you_mean

HAVE_ENTROPY = ("classes", "labels")


def prediction_entropy(
    logits: Float[Tensor, "batch class"], kind: str = "classes"
) -> Float[Tensor, " batch"]:
    """Entropy of each example's prediction in nats.

    >>> prediction_entropy(torch.zeros(1, 4)).exp()  # four equally likely classes
    tensor([4.])
    """
    if kind not in HAVE_ENTROPY:
        raise TaskgroveError(
            f'predictions of kind "{kind}" have no entropy; expected "classes" or "labels".'
            f"{did_you_mean(kind, HAVE_ENTROPY)} Leave such a task out of the entropy."
        )
    z = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return _of_classes(z) if kind == "classes" else _of_labels(z)


def _of_classes(z: Float[Tensor, "batch class"]) -> Float[Tensor, " batch"]:
    log_p = z.log_softmax(dim=-1).clamp(min=torch.finfo(z.dtype).min)  # 0 * -inf would be NaN
    return -(log_p.exp() * log_p).sum(dim=-1)


def _of_labels(z: Float[Tensor, "batch class"]) -> Float[Tensor, " batch"]:
    a = z.abs().clamp(max=torch.finfo(z.dtype).max)  # H(z) = H(-z), and exp(-a) cannot overflow
    return (torch.nn.functional.softplus(-a) + a * torch.sigmoid(-a)).sum(dim=-1)
