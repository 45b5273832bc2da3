"""The task vector of hidden states: what a frozen model makes of some examples of a task.

Shao et al., "In-Context Meta LoRA Generation", IJCAI 2025, arXiv 2501.17635; Hendel, Geva,
Globerson, "In-Context Learning Creates Task Vectors", 2023, arXiv 2310.15916. Not the task vector
of weights (see merging).

    c = mean over examples of h_l          h_l the hidden state of layer l at the last real token

Symbols: h [example token dim]; c [dim]. Examples should show their answers, or tasks on the same
texts look alike. Differs from the paper: one pass over each example with its answer, in place of
generating it; "mean" takes all of an example's real tokens, for encoders that are pooled so.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from taskgrove.errors import TaskgroveError

Position = Literal["last", "mean"]


@torch.no_grad()
def hidden_task_vector(
    model: nn.Module,
    batches: Iterable[Mapping[str, Tensor]],
    layer: int = -1,
    position: Position = "last",
) -> Float[Tensor, " dim"]:
    """c of a transformers model; batches are what its tokenizer gives. The model keeps its mode."""
    mode, total, count = model.training, None, 0
    model.eval()
    try:
        for batch in batches:
            found: Any = model(**batch, output_hidden_states=True)
            decoder = getattr(found, "decoder_hidden_states", None)
            h = (decoder or found.hidden_states)[layer]
            mask = None if decoder else batch.get("attention_mask")
            mask = h.new_ones(h.shape[:2]) if mask is None else mask
            part = pooled(h, mask, position).double().sum(0)
            total = part if total is None else total + part
            count += len(h)
    finally:
        model.train(mode)
    if total is None:
        raise TaskgroveError("a task vector needs at least one example: give some 30")
    return (total / count).float()


def pooled(
    h: Float[Tensor, "example token dim"], mask: Tensor, position: Position
) -> Float[Tensor, "example dim"]:
    """Hidden states of the last real token, on whichever side padding is, or their mean."""
    if position == "mean":
        share = mask.to(h.dtype) / mask.sum(1, keepdim=True)
        return (h * share[..., None]).sum(1)
    places = torch.arange(h.shape[1], device=h.device)
    last = (mask.bool() * (places + 1)).argmax(1)
    return h[torch.arange(len(h), device=h.device), last]
