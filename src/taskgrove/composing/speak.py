"""Speaking: an answer's text as it comes, token by token, from one model or from fused ones.

    p = softmax(log P~ / temperature), cut to the fewest tokens that hold top_p of it; temperature 0
    takes the likeliest token

Text is given out once it can no longer change: an unfinished character and what may become a stop
word are held back. Each model reads each token once.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from taskgrove.composing.cached import Cached
from taskgrove.composing.fused_lm import LogitsFusion

Finish = Literal["stop", "length"]
UNFINISHED = "\ufffd"  # what a tokenizer writes for a part of a character


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn, and when the answer ends. `stop`: words it ends before."""

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class Piece:
    """New text, how many tokens there are by now, and with the last one why it ended."""

    text: str
    tokens: int
    finish: Finish | None = None


def speak(
    model: Any,
    tokenizer: Any,
    prompt: Sequence[int],
    sampling: Sampling,
    fusion: LogitsFusion | None = None,
) -> Iterator[Piece]:
    """The answer to a prompt, given as numbers of tokens."""
    rng = torch.Generator()
    _ = rng.seed() if sampling.seed is None else rng.manual_seed(sampling.seed)
    ends, tokens, given = end_tokens(model, tokenizer), [], 0
    for token in _tokens(model, prompt, sampling, rng, fusion):
        ended = token in ends
        tokens += [] if ended else [token]
        text = tokenizer.decode(tokens, skip_special_tokens=True)
        stopped = [at for word in sampling.stop if (at := text.find(word, given)) >= 0]
        if stopped or ended:
            text = text[: min(stopped)] if stopped else text
            yield Piece(text[given:], len(tokens) + ended, "stop")
            return
        if len(tokens) == sampling.max_tokens:
            break
        sure = max(given, settled(text, sampling.stop))
        if sure > given:
            yield Piece(text[given:sure], len(tokens))
            given = sure
    text = tokenizer.decode(tokens, skip_special_tokens=True)
    yield Piece(text[given:], len(tokens), "length")


def _tokens(
    model: Any,
    prompt: Sequence[int],
    sampling: Sampling,
    rng: torch.Generator,
    fusion: LogitsFusion | None,
) -> Iterator[int]:
    cached, ids = Cached(model), torch.tensor([list(prompt)])
    for _ in range(sampling.max_tokens):
        logits = cached.next(ids, torch.ones_like(ids).bool())
        if fusion is not None:
            logits = fusion(ids, logits)
        token = draw(logits[0].float().cpu(), sampling, rng)
        yield token
        ids = torch.cat([ids, torch.tensor([[token]])], 1)


def draw(logits: Float[Tensor, "vocabulary"], sampling: Sampling, rng: torch.Generator) -> int:
    """One token.

    >>> logits = torch.tensor([0.5, 0.4, 0.1]).log()
    >>> drawn = [draw(logits, Sampling(1, top_p=0.6), torch.Generator().manual_seed(n)) for n in
    ...     range(40)]
    >>> sorted(set(drawn))
    [0, 1]
    """
    if sampling.temperature == 0:
        return int(logits.argmax())
    p, order = (logits / sampling.temperature).softmax(-1).sort(descending=True)
    kept = p.cumsum(-1) - p < sampling.top_p  # what stands before it has less
    kept[0] = True
    p = torch.where(kept, p, 0)
    return int(order[torch.multinomial(p, 1, generator=rng)])


def settled(text: str, stop: Sequence[str]) -> int:
    """How many characters of a growing text are sure to stay.

    >>> settled("the answer is 4. En", ["End", "."])
    17
    """
    text = text.rstrip(UNFINISHED)
    sure = len(text)
    for word in stop:
        for length in range(min(len(word) - 1, len(text)), 0, -1):
            if text.endswith(word[:length]):
                sure = min(sure, len(text) - length)
                break
    return sure


def end_tokens(model: Any, tokenizer: Any) -> set[int]:
    """Numbers of the tokens that end an answer."""
    found = model.generation_config.eos_token_id
    found = tokenizer.eos_token_id if found is None else found
    return set() if found is None else {found} if isinstance(found, int) else set(found)
