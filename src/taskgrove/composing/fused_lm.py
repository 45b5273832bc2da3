"""Dynamic logits fusion while text is generated (see dynamic_alpha for the paper and equations).

`LogitsFusion` is a transformers `LogitsProcessor`: `large.generate(..., logits_processor=[it])`
runs the small models beside the large one. `FusedLM` puts models, tokenizer and prompts together.

Cost per token: one forward of the large model and of each of the T + 1 small ones, each reading
one token, since every model keeps its keys and values (`forwards` counts them), and softmaxes of
[batch vocabulary]: about 11 an expert for its alpha*, then T + 1 a candidate. Memory: T + 2 models.

Sampling's temperature, top-k and top-p come after fusion, as transformers orders them. Beams may
change places. One `LogitsFusion` serves one `generate`; search that takes tokens back (assisted
decoding) is refused.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from taskgrove.composing.cached import Cached
from taskgrove.composing.dynamic_alpha import Rule, fuse_step
from taskgrove.composing.rows import Ids, Mask, came_from, left_padded, mask_of_rows
from taskgrove.composing.vocabulary import common_size
from taskgrove.errors import TaskgroveError

Model = Any  # a transformers causal language model
Scores = Float[Tensor, "batch vocabulary"]


class LogitsFusion(LogitsProcessor):
    """Moves the scores of `generate` by what the experts learned.

    `mask`: the prompts' attention mask, where they are padded on the left; else none are.
    `tokens`: how many tokens the tokenizer has, where the models pad their vocabularies.
    """

    def __init__(
        self,
        small: Model,
        experts: Sequence[Model],
        rule: Rule | None = None,
        mask: Mask | Ids | None = None,
        tokens: int = 0,
    ) -> None:
        if not experts:
            raise TaskgroveError("there is no expert; expected tuned copies of the small model.")
        self._rule, self._tokens = rule or Rule(), tokens
        self._models = [Cached(model) for model in (small, *experts)]
        self._mask = None if mask is None else left_padded(mask)
        self._ids: Tensor | None = None
        self._alpha: list[Tensor] = []

    @property
    def forwards(self) -> int:
        """Calls of the small models so far."""
        return sum(model.forwards for model in self._models)

    @property
    def alpha(self) -> Float[Tensor, "batch step expert"]:
        """What was chosen so far; with beams, of the rows as they stand now."""
        return torch.stack(self._alpha, 1)

    def __call__(self, input_ids: Ids, scores: Scores) -> Scores:
        """Fused log-probabilities, fp32; -inf for what lies beyond the common vocabulary."""
        mask = self._follow(input_ids)
        small, *experts = (m.next(input_ids, mask).to(scores.device) for m in self._models)
        size = _common(scores, small, experts, self._tokens)
        experts = torch.stack([expert[:, :size] for expert in experts])
        fused, alpha = fuse_step(scores[:, :size], small[:, :size], experts, self._rule)
        self._alpha.append(alpha.cpu())
        out = torch.full_like(scores, -torch.inf, dtype=fused.dtype)
        out[:, :size] = fused
        return out

    def _follow(self, ids: Ids) -> Mask:
        """Brings mask, caches and records to `ids`: one token more, rows perhaps moved."""
        if self._ids is None or self._mask is None:
            self._mask = mask_of_rows(self._mask, ids)
        else:
            rows = came_from(self._ids, self._mask, ids)
            if rows is not None:
                for model in self._models:
                    model.reorder(rows)
                self._alpha = [alpha[rows.cpu()] for alpha in self._alpha]
            self._mask = torch.cat([self._mask, torch.ones_like(self._mask[:, :1])], 1)
        self._ids = ids.clone()
        return self._mask


def _common(large: Tensor, small: Tensor, experts: Sequence[Tensor], tokens: int) -> int:
    names = ["large", "small", *(f"expert {n}" for n in range(1, len(experts) + 1))]
    sizes = [x.shape[-1] for x in (large, small, *experts)]
    return common_size(dict(zip(names, sizes, strict=True)), tokens)


@dataclass(frozen=True)
class Answer:
    """`text` and its `tokens`, without the prompt; `alpha` [token expert]."""

    text: str
    tokens: list[int]
    alpha: Float[Tensor, "step expert"]


@dataclass(frozen=True)
class FusedLM:
    """A large model that speaks with the skills of small ones; all share `tokenizer`."""

    large: Model
    small: Model
    experts: Sequence[Model]
    tokenizer: Any
    rule: Rule = field(default_factory=Rule)

    def generate(self, prompts: Sequence[str], options: GenerationConfig) -> list[Answer]:
        """An answer to each prompt, in one batch; `options` as transformers has them."""
        if (options.num_return_sequences or 1) > 1:
            raise TaskgroveError(
                f"num_return_sequences is {options.num_return_sequences}; expected 1: give a"
                " prompt as often as you want answers to it."
            )
        ids, mask = encode(self.tokenizer, prompts)
        fusion = LogitsFusion(self.small, self.experts, self.rule, mask, len(self.tokenizer))
        whole = self.large.generate(
            input_ids=ids.to(self.large.device),
            attention_mask=mask.to(self.large.device).long(),
            generation_config=options,
            logits_processor=LogitsProcessorList([fusion]),
        ).cpu()
        alpha, start = fusion.alpha, ids.shape[1]
        if (options.num_beams or 1) > 1:  # the rows that won may not be those that stood last
            grown = torch.cat([mask, torch.ones_like(whole[:, start:]).bool()], 1)
            alpha = self.log_probs(whole, grown)[1][:, start - 1 : -1]
        ends = _ends(self.large, options)
        return [
            self._answer(row, each, ends) for row, each in zip(whole[:, start:], alpha, strict=True)
        ]

    def _answer(self, row: Tensor, alpha: Tensor, ends: set[int]) -> Answer:
        tokens: list[int] = row.tolist()
        last = next((n for n, token in enumerate(tokens) if token in ends), len(tokens) - 1)
        tokens = tokens[: last + 1]
        text = self.tokenizer.decode(tokens, skip_special_tokens=True)
        return Answer(text, tokens, alpha[: last + 1].cpu())

    @torch.no_grad()
    def log_probs(
        self, ids: Ids, mask: Mask
    ) -> tuple[Float[Tensor, "batch token vocabulary"], Float[Tensor, "batch token expert"]]:
        """Of the token after each one of a given text, and alpha: one forward of each model."""
        mask = left_padded(mask)
        large, small, *experts = (
            Cached(model).all(ids, mask).to(self.large.device)
            for model in (self.large, self.small, *self.experts)
        )
        size = _common(large, small, experts, len(self.tokenizer))
        flat = [x[..., :size].flatten(0, 1) for x in (large, small, *experts)]  # [row vocabulary]
        fused, alpha = fuse_step(flat[0], flat[1], torch.stack(flat[2:]), self.rule)
        return fused.unflatten(0, ids.shape), alpha.unflatten(0, ids.shape)


def encode(tokenizer: Any, prompts: Sequence[str]) -> tuple[Int[Tensor, "batch token"], Mask]:
    """Numbers of the prompts' tokens, padded on the left, and their mask."""
    rows = [tokenizer(prompt)["input_ids"] for prompt in prompts]
    empty = [n for n, row in enumerate(rows, 1) if not row]
    if empty or not rows:
        raise TaskgroveError(
            f"prompt {empty[0]} has no tokens; expected some text to go on from."
            if rows
            else "there are no prompts; expected one or more."
        )
    longest = max(map(len, rows))
    pad = tokenizer.pad_token_id or 0
    ids = torch.tensor([[pad] * (longest - len(row)) + row for row in rows])
    mask = torch.tensor([[False] * (longest - len(row)) + [True] * len(row) for row in rows])
    return ids, mask


def _ends(model: Model, options: GenerationConfig) -> set[int]:
    """Numbers of the tokens that end an answer."""
    found = options.eos_token_id
    found = model.generation_config.eos_token_id if found is None else found
    return set() if found is None else {found} if isinstance(found, int) else set(found)
