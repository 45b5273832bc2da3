"""A small HTTP server of JSON, on the standard library alone.

What it answers is given by two functions, `get(path)` and `post(path, body)`: a dict is one answer,
a generator of dicts goes out as server-sent events. A mistake is a `WireError`, told as JSON.

It has no keys and no encryption: it listens to this machine unless told otherwise, and belongs
behind a proxy where others can reach it.
"""

import json
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from taskgrove.errors import TaskgroveError

MOST = 16 << 20  # bytes of a request
PATIENCE = 60  # seconds for a client that neither reads nor writes
Found = dict[str, Any] | Generator[dict[str, Any], None, None]


class WireError(Exception):
    """A request that cannot be answered, as OpenAI's JSON tells it."""

    def __init__(
        self, message: str, param: str | None = None, status: int = 400, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.status, kind = status, "invalid_request_error" if status < 500 else "server_error"
        self.body = {
            "error": {"message": message, "type": kind, "param": param, "code": code},
        }


def http_server(
    host: str,
    port: int,
    get: Callable[[str], dict[str, Any]],
    post: Callable[[str, bytes], Found],
) -> ThreadingHTTPServer:
    """Bound, not yet running. Port 0 takes a free one."""

    class Handler(BaseHTTPRequestHandler):
        """One connection."""

        protocol_version, timeout = "HTTP/1.1", PATIENCE

        def do_GET(self) -> None:
            """What there is."""
            self._answer(get)

        def do_POST(self) -> None:
            """What is asked."""
            self._answer(lambda path: post(path, self._body()))

        def _body(self) -> bytes:
            length = self.headers.get("Content-Length", "")
            if not length.isdecimal():
                self.close_connection = True
                raise WireError("a request needs a Content-Length.", status=411)
            if int(length) > MOST:
                self.close_connection = True
                raise WireError(f"a request may have {MOST} bytes.", status=413)
            return self.rfile.read(int(length))

        def _answer(self, make: Callable[[str], Found]) -> None:
            """`make(path)`'s JSON; a mistake as JSON too; a client that has gone ends quietly."""
            try:
                try:
                    found = make(urlsplit(self.path).path.rstrip("/"))
                    if isinstance(found, dict):
                        self._json(200, found)
                    else:
                        with closing(found):
                            self._events(next(found), found)  # what is wrong shows in the first
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
