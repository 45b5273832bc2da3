"""A server that speaks as OpenAI's does (see transport for HTTP).

    GET  /v1/models, /v1/models/NAME, /health
    POST /v1/completions, /v1/chat/completions       with "stream": true as server-sent events

The formats are in openai_wire and openai_reply. One answer is made at a time; others wait.
"""

import threading
import time
from collections.abc import Generator, Iterator
from http.server import ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

from taskgrove.composing import openai_reply, openai_wire
from taskgrove.composing.openai_reply import Reply
from taskgrove.composing.openai_wire import Request
from taskgrove.composing.transport import Found, WireError, http_server
from taskgrove.composing.voice import Voice

CHATS = {"/v1/completions": False, "/v1/chat/completions": True}


def server(voice: Voice, host: str, port: int) -> ThreadingHTTPServer:
    """Bound, not yet running. Port 0 takes a free one."""
    created, turn = int(time.time()), threading.Lock()

    def post(path: str, body: bytes) -> Found:
        if path not in CHATS:
            raise WireError(f"there is no {path} to post to.", status=404)
        request = openai_wire.read(body, CHATS[path])
        if request.model != voice.name:
            raise WireError(
                f'the model "{request.model}" does not exist; this server has "{voice.name}".',
                "model", 404, "model_not_found",
            )  # fmt: skip
        prompts = _numbers(voice, request)
        if request.stream:
            return _in_turn(turn, stream(voice, request, prompts))
        with turn:
            return whole(voice, request, prompts)

    return http_server(host, port, lambda path: _about(voice, created, path), post)


def _in_turn(
    turn: threading.Lock, pieces: Iterator[dict[str, Any]]
) -> Generator[dict[str, Any], None, None]:
    """The pieces, while no other answer is made."""
    with turn:
        yield from pieces


def _about(voice: Voice, created: int, path: str) -> dict[str, Any]:
    if path == "/health":
        return {"status": "ok"}
    if path == "/v1/models":
        return openai_reply.models(voice.name, created)
    if path.startswith("/v1/models/") and unquote(path.removeprefix("/v1/models/")) == voice.name:
        return openai_reply.model(voice.name, created)
    raise WireError(f"there is no {path}; see /v1/models.", status=404)


def _numbers(voice: Voice, request: Request) -> list[list[int]]:
    """Each prompt's tokens; none empty, none unknown."""
    if request.chat:
        return [voice.chat(request.messages)]
    found = [p if isinstance(p, list) else voice.numbers(p) for p in request.prompts]
    for row in found:
        if not row or max(row) >= len(voice.tokenizer):
            what = "has no tokens" if not row else f"has the unknown token {max(row)}"
            raise WireError(f"a prompt {what}.", "prompt")
    return found


def whole(voice: Voice, request: Request, prompts: list[list[int]]) -> dict[str, Any]:
    """The answer in one piece."""
    texts, count = [], 0
    for row in prompts:
        text, finish, tokens = "", "length", 0
        for piece in voice.speak(row, request.sampling(voice.context - len(row))):
            text, finish, tokens = text + piece.text, piece.finish, piece.tokens
        texts.append((text, str(finish)))
        count += tokens
    return Reply.to(request).whole(texts, sum(map(len, prompts)), count)


def stream(voice: Voice, request: Request, prompts: list[list[int]]) -> Iterator[dict[str, Any]]:
    """The answer as it comes."""
    reply, count = Reply.to(request), 0
    asked = [request.sampling(voice.context - len(row)) for row in prompts]
    if request.chat:
        yield reply.first()
    for index, (row, sampling) in enumerate(zip(prompts, asked, strict=True)):
        tokens = 0
        for piece in voice.speak(row, sampling):
            tokens = piece.tokens
            yield reply.chunk(piece.text, index, piece.finish)
        count += tokens
    if request.usage:
        yield reply.last(sum(map(len, prompts)), count)
