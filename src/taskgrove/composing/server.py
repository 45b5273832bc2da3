"""A small server that speaks as OpenAI's does, on the standard library alone.

    GET  /v1/models, /v1/models/NAME, /health
    POST /v1/completions, /v1/chat/completions       with "stream": true as server-sent events

The formats are in openai_wire and openai_reply.

One answer is made at a time; others wait their turn. It has no keys and no encryption: it listens
to this machine unless told otherwise, and belongs behind a proxy where others can reach it.
"""

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

from taskgrove.composing import openai_reply, openai_wire
from taskgrove.composing.openai_reply import Reply
from taskgrove.composing.openai_wire import Request, WireError
from taskgrove.composing.voice import Voice
from taskgrove.errors import TaskgroveError

MOST = 16 << 20  # bytes of a request
PATIENCE = 60  # seconds for a client that neither reads nor writes
CHATS = {"/v1/completions": False, "/v1/chat/completions": True}


def server(voice: Voice, host: str, port: int) -> ThreadingHTTPServer:
    """Bound, not yet running. Port 0 takes a free one."""
    created, turn = int(time.time()), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        """One connection."""

        protocol_version, timeout = "HTTP/1.1", PATIENCE

        def do_GET(self) -> None:
            """Models."""
            self._answer(lambda path: _about(voice, created, path))

        def do_POST(self) -> None:
            """Completions."""
            self._answer(self._completion)

        def _completion(self, path: str) -> dict[str, Any] | None:
            body = self._body()
            if path not in CHATS:
                raise WireError(f"there is no {path} to post to.", status=404)
            request = openai_wire.read(body, CHATS[path])
            if request.model != voice.name:
                raise WireError(
                    f'the model "{request.model}" does not exist; this server has "{voice.name}".',
                    "model", 404, "model_not_found",
                )  # fmt: skip
            prompts = _numbers(voice, request)
            with turn:
                if not request.stream:
                    return whole(voice, request, prompts)
                pieces = stream(voice, request, prompts)
                first = next(pieces)  # what is wrong shows here, before the answer has begun
                self._events(first, pieces)
            return None

        def _body(self) -> bytes:
            length = self.headers.get("Content-Length", "")
            if not length.isdecimal():
                self.close_connection = True
                raise WireError("a request needs a Content-Length.", status=411)
            if int(length) > MOST:
                self.close_connection = True
                raise WireError(f"a request may have {MOST} bytes.", status=413)
            return self.rfile.read(int(length))

        def _answer(self, make: Any) -> None:
            """`make(path)`'s JSON; a mistake as JSON too; a client that has gone ends quietly."""
            try:
                try:
                    found = make(urlsplit(self.path).path.rstrip("/"))
                    if found is not None:
                        self._json(200, found)
                except WireError as error:
                    self._json(error.status, error.body)
                except TaskgroveError as error:
                    self._json(400, WireError(str(error)).body)
                except (ConnectionError, TimeoutError):
                    raise
                except Exception as error:
                    self.log_error("%s: %s", type(error).__name__, error)
                    self._json(500, WireError("the server failed; see its log.", status=500).body)
            except (ConnectionError, TimeoutError):
                self.close_connection = True

        def _json(self, status: int, found: dict[str, Any]) -> None:
            body = json.dumps(found).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def _events(self, first: dict[str, Any], rest: Iterator[dict[str, Any]]) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream; charset=utf-8")
            self.send_header("Cache-Control", "no-cache")
            self.send_header("Connection", "close")  # its end is the end of the answer
            self.end_headers()
            try:
                self._event(json.dumps(first))
                for piece in rest:
                    self._event(json.dumps(piece))
            except (ConnectionError, TimeoutError):
                raise
            except Exception as error:  # too late for another status
                self.log_error("%s: %s", type(error).__name__, error)
                self._event(json.dumps(WireError("the server failed.", status=500).body))
            else:
                self._event("[DONE]")

        def _event(self, data: str) -> None:
            self.wfile.write(f"data: {data}\n\n".encode())
            self.wfile.flush()

    class Server(ThreadingHTTPServer):
        """Ends with its process."""

        daemon_threads = True

    return Server((host, port), Handler)


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
