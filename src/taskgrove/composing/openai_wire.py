"""What OpenAI's completions and chat completions are asked, as JSON (answers: see openai_reply).

What a request asks for and this server does not do is refused when it would change the answer
(`n` above 1, `tools`, `logprobs`, ...); fields that only describe the caller are passed over.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from taskgrove.composing.speak import Sampling
from taskgrove.composing.transport import WireError

NEUTRAL: dict[str, tuple[object, ...]] = {  # what asks for nothing more than there is
    "n": (1,),
    "best_of": (1,),
    "echo": (False,),
    "logprobs": (False, 0),
    "top_logprobs": (0,),
    "suffix": ("",),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logit_bias": ({},),
    "tools": ([],),
    "functions": ([],),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
}
STOPS = 4  # how many stop words OpenAI allows


@dataclass(frozen=True)
class Request:
    """`prompts`: texts or numbers of tokens; one with chat, where `messages` are given instead."""

    chat: bool
    model: str
    prompts: list[str | list[int]]
    messages: list[dict[str, str]]
    stream: bool
    usage: bool  # at the end of a stream
    max_tokens: int | None
    temperature: float
    top_p: float
    seed: int | None
    stop: tuple[str, ...]

    def sampling(self, room: int) -> Sampling:
        """`room`: how many tokens the context still holds."""
        most = (
            (room if self.chat else min(16, room)) if self.max_tokens is None else self.max_tokens
        )
        if most > room or room < 1:
            raise WireError(
                f"after this prompt the model's context has room for {max(room, 0)} tokens,"
                f" {max(most, 1)} are asked for.",
                "messages" if self.chat else "prompt",
                code="context_length_exceeded",
            )
        return Sampling(most, self.temperature, self.top_p, self.seed, self.stop)


def read(body: bytes, chat: bool) -> Request:
    """The request in a body, or a WireError."""
    try:
        asked = json.loads(body)
    except (ValueError, RecursionError):
        raise WireError("the body is not JSON; expected an object such as {}.") from None
    if not isinstance(asked, dict):
        raise WireError("the body is not a JSON object.")
    for name, neutral in NEUTRAL.items():
        if asked.get(name) is not None and asked[name] not in neutral:
            raise WireError(
                f"{name} is {json.dumps(asked[name])}; this server has no {name}.", name
            )
    model = _typed(asked, "model", str, None)
    if model is None:
        raise WireError("you must provide a model; see /v1/models.", "model")
    most = _typed(asked, "max_completion_tokens" if chat else "max_tokens", int, None)
    if chat and most is None:
        most = _typed(asked, "max_tokens", int, None)
    return Request(
        chat,
        model,
        [] if chat else _prompts(asked.get("prompt")),
        _messages(asked.get("messages")) if chat else [],
        _typed(asked, "stream", bool, False),
        bool((_typed(asked, "stream_options", dict, {})).get("include_usage")),
        None if most is None else int(_within("max_tokens", most, 1, 1 << 31)),
        _within("temperature", _typed(asked, "temperature", (int, float), 1.0), 0, 2),
        _within("top_p", _typed(asked, "top_p", (int, float), 1.0), 0, 1),
        _typed(asked, "seed", int, None),
        _stops(asked.get("stop")),
    )


def _typed(asked: Mapping[str, Any], name: str, kind: type | tuple[type, ...], default: Any) -> Any:
    value = asked.get(name)
    if value is None:
        return default
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        word = {str: "a text", bool: "true or false", int: "a whole number", dict: "an object"}
        expected = word.get(kind, "a number") if isinstance(kind, type) else "a number"
        raise WireError(f"{name} is {json.dumps(value)}; expected {expected}.", name)
    return value


def _within(name: str, value: float, low: float, high: float) -> float:
    if not low <= value <= high:
        raise WireError(f"{name} is {value}; expected {low} to {high}.", name)
    return value


def _stops(stop: Any) -> tuple[str, ...]:
    words = [] if stop is None else [stop] if isinstance(stop, str) else stop
    if (
        not isinstance(words, list)
        or len(words) > STOPS
        or not all(isinstance(word, str) and word for word in words)
    ):
        raise WireError(f"stop must be a text or up to {STOPS} texts, none empty.", "stop")
    return tuple(words)


def _prompts(prompt: Any) -> list[str | list[int]]:
    if isinstance(prompt, str):
        return [prompt]
    if isinstance(prompt, list) and prompt:
        if _numbers(prompt):
            return [prompt]
        if all(isinstance(each, str) or _numbers(each) for each in prompt):
            return prompt
    raise WireError("prompt must be a text, a list of texts, or tokens' numbers.", "prompt")


def _numbers(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in value)
    )


def _messages(messages: Any) -> list[dict[str, str]]:
    if not isinstance(messages, list) or not messages:
        raise WireError("messages must be a list of one or more messages.", "messages")
    found = []
    for n, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise WireError(f"messages[{n}] has no role.", f"messages[{n}].role")
        content = message.get("content")
        if isinstance(content, list):  # parts, of which only text is understood here
            parts = [
                part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None
                for part in content
            ]
            content = None if None in parts else "".join(str(part) for part in parts)
        if not isinstance(content, str):
            raise WireError(f"messages[{n}] has no text as its content.", f"messages[{n}].content")
        found.append({"role": message["role"], "content": content})
    return found
