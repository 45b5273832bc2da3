"""Cached: a causal model that reads each token once.

Its keys and values stay between calls; rows may be padded on the left, each with its own positions;
rows may change places, as beams do.
"""

from inspect import signature
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers.cache_utils import Cache

from taskgrove.composing.rows import Ids, Mask


class Cached:
    """A transformers causal model and what it remembers; `forwards` counts its calls."""

    def __init__(self, model: Any) -> None:
        self.model, self.forwards = model, 0
        self._takes = set(signature(model.forward).parameters)
        self._name = "cache" if "cache" in self._takes else "past_key_values"  # until 5.23
        self._past, self._seen = None, 0

    def next(self, ids: Ids, mask: Mask) -> Float[Tensor, "batch vocabulary"]:
        """Logits of the next token of each row; of `ids` only what is new is read."""
        found = self._read(ids, mask, self._seen, last=True)
        self._past = found.get(self._name)
        self._seen = 0 if self._past is None else ids.shape[1]  # no cache: all is read again
        return found.logits[:, -1]

    def all(self, ids: Ids, mask: Mask) -> Float[Tensor, "batch token vocabulary"]:
        """Logits after every token, all read anew; what was kept stays as it is."""
        return self._read(ids, mask, 0, last=False).logits

    @torch.no_grad()
    def _read(self, ids: Ids, mask: Mask, start: int, last: bool) -> Any:
        device, self.forwards = self.model.device, self.forwards + 1
        mask = mask.to(device).long()
        given: dict[str, Any] = {"input_ids": ids[:, start:].to(device), "attention_mask": mask}
        if "position_ids" in self._takes:
            given["position_ids"] = positions(mask)[:, start:]
        if last and "logits_to_keep" in self._takes:
            given["logits_to_keep"] = 1
        if self._name in self._takes:
            given |= {self._name: self._past if last else None, "use_cache": last}
        return self.model.eval()(**given)

    def reorder(self, rows: Int[Tensor, "batch"]) -> None:
        """Row n goes on from what row `rows[n]` has read."""
        places: Any = rows.to(self.model.device)
        if isinstance(self._past, Cache):
            self._past.reorder_cache(places)
        elif self._past is not None:  # transformers 4: tuples of keys and values
            self._past = tuple(
                tuple(x.index_select(0, places) for x in layer) for layer in self._past
            )


def positions(mask: Int[Tensor, "batch token"]) -> Int[Tensor, "batch token"]:
    """0, 1, 2, ... from each row's first token on; padding before it has position 0.

    >>> positions(torch.tensor([[0, 0, 1, 1]]))
    tensor([[0, 0, 0, 1]])
    """
    return (mask.cumsum(1) - 1).clamp_min(0)
