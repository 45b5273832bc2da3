"""Voice: a model under a name, by itself or with small ones beside it, that answers prompts."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from taskgrove.composing.context import context_of
from taskgrove.composing.dynamic_alpha import Rule
from taskgrove.composing.fused_lm import LogitsFusion
from taskgrove.composing.load import check_folder, load_fused, load_model, load_tokenizer
from taskgrove.composing.speak import Piece, Sampling, speak
from taskgrove.errors import TaskgroveError


@dataclass(frozen=True)
class Voice:
    """Without experts: `model` alone."""

    name: str
    model: Any
    tokenizer: Any
    small: Any = None
    experts: Sequence[Any] = ()
    rule: Rule = field(default_factory=Rule)

    @property
    def context(self) -> int:
        """How many tokens all models can read."""
        models = [self.model, *([self.small] if self.experts else []), *self.experts]
        return context_of(models)

    def numbers(self, text: str) -> list[int]:
        """The tokens of a prompt."""
        return list(self.tokenizer(text)["input_ids"])

    def chat(self, messages: list[dict[str, str]]) -> list[int]:
        """The tokens of a chat, as the tokenizer's own template writes it."""
        if not self.tokenizer.chat_template:
            raise TaskgroveError(
                f"{self.name} has no chat template, so it was not made for chats; ask it to"
                " complete a prompt instead."
            )
        text = self.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def speak(self, prompt: Sequence[int], sampling: Sampling) -> Iterator[Piece]:
        """The answer, as it comes."""
        fusion = (
            LogitsFusion(self.small, self.experts, self.rule, tokens=len(self.tokenizer))
            if self.experts
            else None
        )
        return speak(self.model, self.tokenizer, prompt, sampling, fusion)


def load_voice(
    name: str, large: Path, small: Path | None, experts: Sequence[Path], rule: Rule
) -> Voice:
    """From folders."""
    if small is None or not experts:
        check_folder(large)
        return Voice(name, load_model(large), load_tokenizer(large))
    fused = load_fused(large, small, experts, rule)
    return Voice(name, fused.large, fused.tokenizer, fused.small, fused.experts, rule)
