"""Scored text: what a large model, a small one and its experts say about a text, token by token.

The logits of all models are kept, so that every rule of fusion is tried on the same ones.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from taskgrove.composing.dynamic_alpha import Rule, fuse_step

Score = dict[str, Any]


@dataclass(frozen=True)
class Text:
    """`next`: the tokens that came; `bytes`: how many they stand for together."""

    large: Float[Tensor, "place vocabulary"]
    small: Float[Tensor, "place vocabulary"]
    experts: Float[Tensor, "expert place vocabulary"]
    next: Int[Tensor, "place"]
    bytes: int

    def score(self, logits: Float[Tensor, "place vocabulary"]) -> Score:
        """Bits per byte, and how often the likeliest token is the next one, in percent."""
        nats = torch.nn.functional.cross_entropy(logits, self.next, reduction="sum").item()
        right = (logits.argmax(-1) == self.next).double().mean().item()
        return {"bits": nats / math.log(2) / self.bytes, "accuracy": 100 * right}

    def alone(self, expert: int | None = None) -> dict[str, Score]:
        """The scores of the models by themselves, one expert among them if it is named."""
        found = {"large_base": self.score(self.large), "small_base": self.score(self.small)}
        return (
            found if expert is None else {**found, "small_expert": self.score(self.experts[expert])}
        )

    def fused(self, rule: Rule, expert: int | None = None) -> Score:
        """The score by a rule, of one expert or of all, and alpha's mean [expert]."""
        experts = self.experts if expert is None else self.experts[expert : expert + 1]
        log_p, alpha = fuse_step(self.large, self.small, experts, rule)
        return self.score(log_p) | {"alpha": alpha.mean(0).tolist()}


def read_text(
    rows: Int[Tensor, "row token"],
    bytes_of: Int[Tensor, "vocabulary"],
    large: Any,
    small: Any,
    experts: Sequence[Any],
) -> Text:
    """The models' logits of each row's tokens, from the second on. `bytes_of`: of each token."""
    target = rows[:, 1:].flatten()
    found = [_logits(model, rows) for model in (large, small, *experts)]
    return Text(found[0], found[1], torch.stack(found[2:]), target, int(bytes_of[target].sum()))


@torch.no_grad()
def _logits(model: Any, rows: Tensor) -> Float[Tensor, "place vocabulary"]:
    parts = [model(part[:, :-1], use_cache=False).logits for part in rows.split(32)]
    return torch.cat(parts).flatten(0, 1)


def windows(tokens: Int[Tensor, "token"], length: int) -> Int[Tensor, "row window"]:
    """Rows of length + 1 tokens, one after the other; what is left over is left out."""
    return tokens[: len(tokens) // (length + 1) * (length + 1)].view(-1, length + 1)


def best_static(
    texts: Sequence[Text], experts: Sequence[int | None], alphas: Sequence[float]
) -> float:
    """The alpha with the fewest bits on all texts together; each with its expert, or with all."""

    def bits(alpha: float) -> float:
        pairs = zip(texts, experts, strict=True)
        return sum(text.fused(Rule(alpha=alpha), expert)["bits"] for text, expert in pairs)

    return min(alphas, key=bits)
