"""What stands before every route: who asks, from where, with which key; request ids, headers, the last error, the log.

- `Host` must be a name of this machine or one that the operator gave: a page on a rebound name is refused.
- `Origin`, where it is sent, must be the server's own; `Sec-Fetch-Site` must not be another site or port.
- Where keys exist, everything below /v1 needs one. Without keys the server listens on loopback only.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Collection

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fairlead.app.serve.errors import Refused
from fairlead.app.serve.keys import OPEN, KeyFile
from fairlead.app.serve.log import Log
from fairlead.app.serve.metrics import Metrics
from fairlead.app.web.hosts import is_here

HEADERS = {
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}
"""On every answer."""
FREE = ("/healthz", "/readyz")
"""Routes that need no key: they say nothing else than yes or no."""
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class Gate:
    """The checks around an application."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        keys: KeyFile | None,
        hosts: Collection[str],
        open_to_others: bool,
        metrics: Metrics,
        log: Log,
    ) -> None:
        self._app = app
        self._keys = keys
        self._hosts = frozenset(hosts)
        self._open = open_to_others
        self._metrics = metrics
        self._log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or refuse; write down how it went."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        request = secrets.token_hex(8)
        status = 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                own = {**HEADERS, "x-request-id": request}
                extra = [(name.encode(), value.encode()) for name, value in own.items()]
                message = {**message, "headers": [*message["headers"], *extra]}
            await send(message)

        scope["state"] = {**scope.get("state", {}), "request": request, "tenant": OPEN, "limits": {}, "code": ""}
        try:
            await self._passed(scope, receive, sending)
        except Exception as error:
            self._log.bug(request, error)
            if not status:
                refused = Refused(500, "internal", f"The server made an error (request {request}).")
                await refused.response()(scope, receive, sending)
        finally:
            seconds = time.perf_counter() - started
            self._metrics.answered(scope, status, seconds)
            self._log.answered(scope, request, status, seconds)

    async def _passed(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            self._check(scope)
        except Refused as refused:
            scope["state"]["code"] = refused.code
            await refused.response()(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _check(self, scope: Scope) -> None:
        """Raise the first rule that the request breaks; note whose it is."""
        sent: dict[bytes, list[bytes]] = {}
        for name, value in scope["headers"]:
            sent.setdefault(name.lower(), []).append(value)
        host = _one(sent, b"host")
        if host is None or not is_here(host, self._open, self._hosts):
            raise Refused(421, "wrong_host", f"{host!r:.80} is not an address of this server.")
        origins = sent.get(b"origin", [])
        own = f"http://{host}"
        if any(origin.decode("latin-1") != own for origin in origins) or len(origins) > 1:
            raise Refused(403, "forbidden_origin", f"The page {origins[0]!r:.80} may not use this server.")
        site = (_one(sent, b"sec-fetch-site") or "none").lower()
        if site not in ("none", "same-origin"):
            raise Refused(403, "forbidden_origin", f"A request from another page ({site!r:.20}) is not answered.")
        if scope["path"] not in FREE:
            self._check_key(scope, sent)

    def _check_key(self, scope: Scope, sent: dict[bytes, list[bytes]]) -> None:
        if self._keys is None or not self._keys.keys():
            if self._open:
                raise _no_key("this server has no keys any more")
            return
        headers = sent.get(b"authorization", [])
        key = self._keys.who(headers[0]) if len(headers) == 1 else None
        if key is None:
            raise _no_key("the header is missing, or its key is unknown")
        scope["state"]["tenant"] = key.id
        scope["state"]["limits"] = key.limits


def _one(sent: dict[bytes, list[bytes]], name: bytes) -> str | None:
    """A header that was sent exactly once."""
    values = sent.get(name, [])
    return values[0].decode("latin-1") if len(values) == 1 else None


def _no_key(why: str) -> Refused:
    message = f"This server needs a key in the header 'Authorization: Bearer KEY', and {why}."
    return Refused(401, "invalid_api_key", message, headers={"www-authenticate": "Bearer"})
