"""One POST to a server that is not trusted: a deadline for the whole answer, a limit on its size, no redirects.

Servers may be slow on purpose, answer without end, or point elsewhere. A redirect is an answer like any other, so that
neither pictures nor keys go to an address that the user did not name. Compressed answers are not asked for.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from fairlead.core.errors import RewardError

LARGEST = 16 * 1024**2
"""Bytes of an answer at most."""


@dataclass(frozen=True)
class Answer:
    """What a server answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class NoReply(Exception):
    """The server was away or slow, or its answer was cut: another try may help."""


class TooLarge(Exception):
    """The answer has more bytes than any that could be meant."""


def check_address(setting: str, url: Any) -> str:
    """An address that can be asked, or an error that names the setting."""
    try:
        parts = urlsplit(url) if isinstance(url, str) else None
        usable = parts is not None and parts.scheme in ("http", "https") and bool(parts.hostname) and url.isprintable()
        if parts is not None:
            _ = parts.port
    except ValueError:
        usable = False
    if not usable:
        raise RewardError(f"{setting} is {url!r}: must begin with http:// or https://.")
    return str(url)


def post(url: str, body: bytes, headers: Mapping[str, str], *, seconds: float, largest: int = LARGEST) -> Answer:
    """The whole answer within `seconds`, whatever its status. `headers` go to this address and to no other."""
    sockets: list[socket.socket] = []
    late = threading.Event()
    sent = {"Content-Type": "application/json", "Accept-Encoding": "identity", **headers}
    request = urllib.request.Request(url, body, sent, method="POST")
    opener = urllib.request.build_opener(_NoRedirect, _Http(sockets), _Https(sockets))
    alarm = threading.Timer(seconds, _hang_up, (sockets, late))
    alarm.daemon = True
    alarm.start()
    try:
        try:
            reply: Any = opener.open(request, timeout=seconds)
        except urllib.error.HTTPError as error:
            reply = error
        with reply:
            return Answer(reply.status, dict(reply.headers), _body(reply, largest, late))
    except (OSError, ValueError, AttributeError, http.client.HTTPException) as error:
        if late.is_set() or isinstance(error, TimeoutError) or "timed out" in str(error):
            raise NoReply(f"no whole answer in {seconds:g} s") from error
        reason = getattr(error, "reason", None) or error
        raise NoReply(str(reason) or type(error).__name__) from error
    finally:
        alarm.cancel()


def _body(reply: Any, largest: int, late: threading.Event) -> bytes:
    said = reply.headers.get("Content-Length", "")
    length = int(said) if said.isdecimal() and len(said) < 20 else None
    data = bytearray()
    while part := (reply if hasattr(reply, "read1") else reply.fp).read1(65536):
        data += part
        if len(data) > largest or (length or 0) > largest:
            raise TooLarge
        if late.is_set():
            raise TimeoutError
    if late.is_set() or (length is not None and len(data) < length):
        raise ConnectionError("the answer was cut")
    return bytes(data)


def _hang_up(sockets: list[socket.socket], late: threading.Event) -> None:
    """Wake whoever waits for these sockets."""
    late.set()
    for one in sockets:
        with contextlib.suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: Any, **words: Any) -> None:
        return None


class _Http(urllib.request.HTTPHandler):
    def __init__(self, sockets: list[socket.socket]) -> None:
        super().__init__()
        self._sockets = sockets

    def http_open(self, request: urllib.request.Request) -> Any:
        return self.do_open(_remembering(http.client.HTTPConnection, self._sockets), request)


class _Https(urllib.request.HTTPSHandler):
    def __init__(self, sockets: list[socket.socket]) -> None:
        super().__init__()
        self._sockets = sockets

    def https_open(self, request: urllib.request.Request) -> Any:
        kind = _remembering(http.client.HTTPSConnection, self._sockets)
        return self.do_open(kind, request, context=ssl.create_default_context())


def _remembering(kind: Any, sockets: list[socket.socket]) -> Any:
    """A connection that leaves its socket where the alarm finds it."""

    class Connection(kind):  # type: ignore[misc]
        def connect(self) -> None:
            super().connect()
            sockets.append(self.sock)

    return Connection
