"""A local server that answers as it is told, for the length of a test."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[[int, dict[str, Any]], "tuple[int, bytes | str | Any]"]


class Server:
    """`answer(number of the request, its JSON body)` -> status and body; a body that is no text is sent as JSON."""

    def __init__(self, answer: Answer) -> None:
        self.requests: list[dict[str, Any]] = []
        self.paths: list[str] = []
        lock = threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(handler) -> None:
                body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
                with lock:
                    number = len(self.requests)
                    self.requests.append(body)
                    self.paths.append(handler.path)
                status, data = answer(number, body)
                raw = (
                    data if isinstance(data, bytes) else (data if isinstance(data, str) else json.dumps(data)).encode()
                )
                with contextlib.suppress(OSError):
                    handler.send_response(status)
                    handler.send_header("Content-Type", "application/json")
                    handler.send_header("Content-Length", str(len(raw)))
                    handler.end_headers()
                    handler.wfile.write(raw)

            def log_message(handler, *args: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"

    def __enter__(self) -> Server:
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._http.shutdown()
        self._http.server_close()


@contextlib.contextmanager
def serving(answer: Answer) -> Iterator[Server]:
    with Server(answer) as server:
        yield server
