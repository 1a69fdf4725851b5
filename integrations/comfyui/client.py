"""Requests to `fairlead serve`, by the standard library alone. Imports neither ComfyUI nor fairlead.

No redirect is followed and no proxy is used. The key in FAIRLEAD_API_KEY is sent to this machine and to the address in
FAIRLEAD_SERVER only: a workflow from somebody else may name any server.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import threading
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

DEFAULT = "http://127.0.0.1:8484"
SILENCE = 60.0
"""Seconds without a byte after which a stream is given up; the server sends something every 15 seconds."""
PATIENCE = 600.0
"""Seconds that an answer may take."""
LOOPBACK = ("127.0.0.1", "localhost", "::1")


class ServerFailed(RuntimeError):
    """The server does not answer, or cannot do now what it was asked."""


class Client:
    """One request after the other to one server. `close` ends the present one, from any thread."""

    def __init__(self, address: str) -> None:
        self.address = address.strip().rstrip("/").removesuffix("/v1")
        parts = urlsplit(self.address)
        try:
            port = parts.port
        except ValueError:
            port = -1
        if (
            parts.scheme not in ("http", "https")
            or not parts.hostname
            or parts.path
            or "@" in parts.netloc
            or port == -1
        ):
            raise ValueError(f"server is {address!r:.80}: must be an address like {DEFAULT}.")
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._connect = lambda seconds: kind(parts.hostname, port, timeout=seconds)
        self._is_trusted = parts.hostname in LOOPBACK or self.address == os.environ.get("FAIRLEAD_SERVER", "").rstrip(
            "/"
        )
        self._open: http.client.HTTPConnection | None = None
        self._lock = threading.Lock()
        self._is_closed = False

    def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """The JSON answer to a JSON body."""
        with self._asked(path, body, PATIENCE) as answer:
            found: dict[str, Any] = json.loads(answer.read())
        return found

    def events(self, path: str, body: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """The server-sent events of an answer, one by one."""
        with self._asked(path, body, SILENCE) as answer:
            while line := answer.readline():
                if not line.startswith(b"data:"):
                    continue
                event: dict[str, Any] = json.loads(line[5:])
                if error := event.get("error"):
                    raise ServerFailed(str(error.get("message", "The run failed.")))
                yield event

    def close(self) -> None:
        """End the present request at once; the server notices, and stops the run."""
        with self._lock:
            self._is_closed = True
            if self._open is not None and self._open.sock is not None:
                with contextlib.suppress(OSError):
                    self._open.sock.shutdown(socket.SHUT_RDWR)

    @contextlib.contextmanager
    def _asked(self, path: str, body: Mapping[str, Any], seconds: float) -> Iterator[http.client.HTTPResponse]:
        connection = self._connect(seconds)
        with self._lock:
            if self._is_closed:
                raise ServerFailed(f"The request to {self.address} was cancelled.")
            self._open = connection
        try:
            headers = {"Content-Type": "application/json", "x-stainless-read-timeout": f"{seconds:.0f}"}
            key = os.environ.get("FAIRLEAD_API_KEY", "")
            if key and self._is_trusted:
                headers["Authorization"] = f"Bearer {key}"
            connection.request("POST", path, json.dumps(body).encode(), headers)
            answer = connection.getresponse()
            if answer.status != 200:
                raise _failed(self.address, answer)
            yield answer
        except (OSError, http.client.HTTPException) as error:
            why = f"({type(error).__name__})"
            raise ServerFailed(
                f"{self.address} does not answer {why}. Start the server with 'fairlead serve', or correct the address."
            ) from None
        finally:
            connection.close()


def _failed(address: str, answer: http.client.HTTPResponse) -> Exception:
    """The error of an answer: the caller's mistake for statuses 400 to 499 except 429, else the server's."""
    try:
        sentence = str(json.loads(answer.read(1 << 16))["error"]["message"])
    except (ValueError, KeyError, TypeError):
        sentence = f"{address} answered with status {answer.status}. Is it 'fairlead serve'?"
    if answer.status == 401:
        sentence += " Set the environment variable FAIRLEAD_API_KEY before ComfyUI starts."
    kind = ValueError if 400 <= answer.status < 500 and answer.status != 429 else ServerFailed
    return kind(sentence)
