"""Rows: where each row of a growing batch came from, as beams change places."""

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from taskgrove.errors import TaskgroveError

Ids = Int[Tensor, "batch token"]
Mask = Bool[Tensor, "batch token"]


def left_padded(mask: Int[Tensor, "batch token"] | Mask) -> Mask:
    """The mask as booleans; refuses padding on the right or in between."""
    mask = mask.bool()
    if not mask[:, -1].all() or (mask.long().diff(dim=1) < 0).any():
        raise TaskgroveError(
            "a prompt is padded on the right or empty; expected padding on the left, set the"
            ' tokenizer\'s padding_side to "left".'
        )
    return mask


def mask_of_rows(mask: Bool[Tensor, "prompt prompt_token"] | None, ids: Ids) -> Mask:
    """The prompts' mask, each row as often as it has beams; all ones where there is none."""
    if mask is None:
        return torch.ones_like(ids, dtype=torch.bool)
    if mask.shape[1] != ids.shape[1] or len(ids) % len(mask):
        raise TaskgroveError(
            f"the mask has the shape {tuple(mask.shape)}, the prompts {tuple(ids.shape)}; expected"
            " the attention mask that goes with the prompts."
        )
    return mask.repeat_interleave(len(ids) // len(mask), 0).to(ids.device)


def came_from(
    old: Ids, mask: Mask, ids: Int[Tensor, "batch longer"]
) -> Int[Tensor, "batch"] | None:
    """For each row of `ids` the row of `old` that it continues; None where none has moved.

    >>> old, mask = torch.tensor([[5, 6], [5, 7]]), torch.ones(2, 2).bool()
    >>> came_from(old, mask, torch.tensor([[5, 7, 1], [5, 7, 2]]))
    tensor([1, 1])
    """
    if len(ids) == len(old) and ids.shape[1] == old.shape[1] + 1:
        kept = ids[:, :-1]
        if torch.equal(kept, old):
            return None
        same = (kept[:, None] == old[None]).all(-1) & (mask[:, None] == mask[None]).all(-1)
        if same.any(1).all():
            return same.int().argmax(1)
    raise TaskgroveError(
        f"generation went from tokens {tuple(old.shape)} to {tuple(ids.shape)} that do not continue"
        " them; expected one more token a step: greedy search, sampling or beams, not assisted"
        " decoding, and a new LogitsFusion for each call of generate."
    )
