"""How many tokens models can read together, and whether prompts and their answers fit."""

from collections.abc import Iterable, Sequence
from typing import Any

from taskgrove.errors import TaskgroveError

ENDLESS = 1 << 20  # tokens, where a model does not say how many it can read


def context_of(models: Iterable[Any]) -> int:
    """Tokens that all of them can read."""
    return min(getattr(m.config, "max_position_embeddings", None) or ENDLESS for m in models)


def check_room(models: Iterable[Any], tokenizer: Any, prompts: Sequence[str], new: int) -> None:
    """Refuses a prompt that has no room for `new` tokens behind it, before any work."""
    most = context_of(models)
    for number, prompt in enumerate(prompts, 1):
        if (size := len(tokenizer(prompt)["input_ids"])) + new > most:
            raise TaskgroveError(
                f"prompt {number} has {size} tokens and its answer may have {new}; the models read"
                f" {most} at most: shorten the prompt, or ask for fewer with --max-new-tokens."
            )
