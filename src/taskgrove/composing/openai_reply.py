"""What OpenAI's completions and chat completions answer, as JSON, whole or in chunks."""

import time
import uuid
from dataclasses import dataclass
from typing import Any

from taskgrove.composing.openai_wire import Request


@dataclass(frozen=True)
class Reply:
    """Writes the answer to a request, whole or in chunks, under one id."""

    request: Request
    id: str
    created: int

    @staticmethod
    def to(request: Request) -> "Reply":
        """A new reply."""
        name = "chatcmpl-" if request.chat else "cmpl-"
        return Reply(request, name + uuid.uuid4().hex, int(time.time()))

    def whole(self, texts: list[tuple[str, str]], prompt: int, completion: int) -> dict[str, Any]:
        """`texts`: each answer and why it ended; tokens of all prompts and all answers."""
        choices = []
        for n, (text, finish) in enumerate(texts):
            message = {"role": "assistant", "content": text, "refusal": None}
            said = {"message": message} if self.request.chat else {"text": text}
            choices.append({"index": n, **said, "logprobs": None, "finish_reason": finish})
        kind = "chat.completion" if self.request.chat else "text_completion"
        return self._around(kind, choices) | {"usage": usage(prompt, completion)}

    def chunk(self, text: str, index: int = 0, finish: str | None = None) -> dict[str, Any]:
        """A piece of a stream."""
        said = {"delta": {"content": text}} if self.request.chat else {"text": text}
        choice = {"index": index, **said, "logprobs": None, "finish_reason": finish}
        return self._piece([choice])

    def first(self) -> dict[str, Any]:
        """What a chat's stream begins with."""
        delta = {"role": "assistant", "content": ""}
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}
        return self._piece([choice])

    def last(self, prompt: int, completion: int) -> dict[str, Any]:
        """The counts, at the end of a stream that asked for them."""
        return self._piece([]) | {"usage": usage(prompt, completion)}

    def _piece(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        kind = "chat.completion.chunk" if self.request.chat else "text_completion"
        return self._around(kind, choices)

    def _around(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        facts = {"id": self.id, "object": kind, "created": self.created}
        return {**facts, "model": self.request.model, "choices": choices}


def usage(prompt: int, completion: int) -> dict[str, int]:
    """Counts of tokens."""
    total = prompt + completion
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": total}


def models(name: str, created: int) -> dict[str, Any]:
    """The list of models: one."""
    return {"object": "list", "data": [model(name, created)]}


def model(name: str, created: int) -> dict[str, Any]:
    """One model."""
    return {"id": name, "object": "model", "created": created, "owned_by": "taskgrove"}
