"""Which task vectors to compose: by their gradient at the base, and never the target's own.

Zhang, Albert, Rodriguez-Opazo, van den Hengel, Abbasnejad, "Knowledge Composition using Task
Vectors with Learned Anisotropic Scaling", NeurIPS 2024, arXiv 2407.02880 (memory budgets).

    score_k^l = <dL/dtheta^l at theta_0, tau_k^l>     how fast the loss moves with the coefficient
                                                      of block l of vector k where all are 0

    score: [model tensor]; a vector's rank is by the norm of its row

Difference from the paper: the norm of a row, which the paper leaves open. A vector is the target's
own by its name, or because its cosine with one that is by name is above 0.95 (a copy).
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from taskgrove.errors import TaskgroveError, listed
from taskgrove.merging.learned.scaled_merge import ScaledMerge
from taskgrove.merging.learned.vectors import Vectors, gram

ALIKE = 0.95


def rank_blocks(
    loss: Callable[[dict[str, Tensor]], Tensor], vectors: Vectors
) -> Float[Tensor, "model tensor"]:
    """Scores of all blocks from one backward pass at the base."""
    merge = ScaledMerge(vectors, "tensor", init=0.0, bounds=None)
    weights = merge.weights()
    leaves = [weights[name] for name in merge.names if weights[name].requires_grad]
    loss(weights).backward(inputs=leaves)
    merge.backward_from({name: weights[name].grad for name in merge.names})
    assert merge.coefficients.grad is not None
    return merge.coefficients.grad


def best_models(scores: Float[Tensor, "model tensor"], count: int) -> list[int]:
    """The `count` models with the largest scores, in the order they were given."""
    return sorted(scores.norm(dim=1).argsort(descending=True, stable=True)[:count].tolist())


def others(
    vectors: Vectors, models: Sequence[str], target: str, alike: float = ALIKE
) -> tuple[list[int], tuple[str, ...]]:
    """Places of the models that may help `target`, and notes on those left out.

    Give the target's own vector among `models` under the target's name, if there is one, so that
    copies of it under other names are found.
    """
    if len(models) != vectors.models:
        raise TaskgroveError(
            f"{len(models)} names for {vectors.models} models; expected one each, in order."
        )
    products = gram(vectors)
    length = products.diagonal().clamp(min=torch.finfo(products.dtype).tiny).sqrt()
    cosine = products / (length[:, None] * length)  # [model model]
    named = [k for k, name in enumerate(models) if name == target]
    kept, notes = [], []
    for k, name in enumerate(models):
        if k in named:
            notes.append(f'"{name}" is the target\'s own vector: left out')
        elif named and (near := cosine[k, named].max().item()) > alike:
            notes.append(f'"{name}" has cosine {near:.3f} with the target\'s own vector: left out')
        else:
            kept.append(k)
    if not kept:
        raise TaskgroveError(
            f'every vector of {listed(models)} is the target\'s ("{target}") own; expected a pool '
            "of models tuned on other tasks."
        )
    return kept, tuple(notes)
