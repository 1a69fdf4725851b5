"""Who may ask the studio for what: checks on every request, headers on every answer.

The page is open on loopback, where any page of any site can send requests to it. So:

- `Host` must be a name of this machine: a page on a name that was rebound to 127.0.0.1 is refused.
- `Origin`, where it is sent, must be the studio's own, and `Sec-Fetch-Site` must not be another site or port.
- Reading needs the cookie that the printed link sets. No script can read it, and other sites do not send it.
- Writing needs the cookie, a header token that only the studio's own page can read, the own `Origin`, and JSON.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie

from fairlead.app.web.body import BadBody, check_kind
from fairlead.app.web.hosts import is_here

HEADERS = {
    "content-security-policy": (
        "default-src 'self'; img-src 'self'; object-src 'none'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}
"""On every answer."""
TOKEN_HEADER = "x-fairlead-token"


@dataclass(frozen=True)
class Refusal:
    """Why a request is not answered."""

    status: int
    code: str
    message: str


@dataclass(frozen=True)
class Keys:
    """The secrets of one start of the studio."""

    reading: str = field(default_factory=lambda: secrets.token_urlsafe(32))
    """In the printed link, then in the cookie."""
    writing: str = field(default_factory=lambda: secrets.token_urlsafe(32))
    """Handed to the page, which sends it in a header."""


@dataclass(frozen=True)
class Asked:
    """What the checks need to know about a request."""

    method: str
    path: str
    headers: Mapping[str, list[str]]

    def one(self, name: str) -> str | None:
        """A header that may be sent once; None where it is missing."""
        values = self.headers.get(name, [])
        return values[0] if len(values) == 1 else None

    def twice(self, name: str) -> bool:
        """True if a header was sent more than once."""
        return len(self.headers.get(name, [])) > 1


class Guard:
    """The rules of one server."""

    def __init__(self, keys: Keys, port: int, open_to_others: bool = False) -> None:
        self.keys = keys
        self.cookie = f"fairlead-{port}"
        """With the port, because a cookie is shared by all ports of a host."""
        self._open = open_to_others

    def check(self, asked: Asked) -> Refusal | None:
        """The first rule that the request breaks, None if it may pass."""
        return self._check_host(asked) or self._check_origin(asked) or self._check_rights(asked)

    def _check_host(self, asked: Asked) -> Refusal | None:
        host = asked.one("host")
        if host is None or not is_here(host, self._open):
            return Refusal(421, "wrong_host", f"{host!r:.80} is not an address of this studio. Open the printed link.")
        return None

    def _check_origin(self, asked: Asked) -> Refusal | None:
        origin = asked.one("origin")
        own = f"http://{asked.one('host')}"
        if asked.twice("origin") or (origin is not None and origin != own):
            return Refusal(403, "wrong_origin", f"The page {origin!r:.80} may not use this studio.")
        site = asked.one("sec-fetch-site")
        opens = asked.path == "/" and asked.one("sec-fetch-mode") == "navigate"
        if site not in (None, "same-origin", "none") and not opens:
            return Refusal(403, "wrong_site", f"A request from another page ({site!r:.20}) is not answered.")
        return None

    def _check_rights(self, asked: Asked) -> Refusal | None:
        if asked.method not in ("GET", "HEAD", "POST"):
            return Refusal(405, "wrong_method", f"{asked.method!r:.20} is not used here.")
        if not asked.path.startswith("/api/"):
            return (
                None if asked.method != "POST" else Refusal(405, "wrong_method", f"POST {asked.path!r:.60} is nothing.")
            )
        if not self._same(self._sent_cookie(asked), self.keys.reading):
            message = "This browser has not opened the studio yet. Open the link that 'fairlead studio' printed."
            return Refusal(401, "no_cookie", message)
        return self._check_write(asked) if asked.method == "POST" else None

    def _check_write(self, asked: Asked) -> Refusal | None:
        if not self._same(asked.one(TOKEN_HEADER) or "", self.keys.writing):
            return Refusal(403, "no_token", f"A change needs the header {TOKEN_HEADER!r}. Reload the page.")
        if asked.one("origin") is None:
            return Refusal(403, "wrong_origin", f"A change needs the header {'origin'!r}.")
        try:
            check_kind(asked.one("content-type"), "content-encoding" in asked.headers)
        except BadBody as bad:
            return Refusal(bad.status, bad.code, bad.message)
        return None

    def _sent_cookie(self, asked: Asked) -> str:
        try:
            found = SimpleCookie("; ".join(asked.headers.get("cookie", [])))
        except CookieError:
            return ""
        return found[self.cookie].value if self.cookie in found else ""

    def opens(self, token: str | None) -> bool:
        """True for the token of the printed link."""
        return self._same(token or "", self.keys.reading)

    @staticmethod
    def _same(given: str, wanted: str) -> bool:
        return hmac.compare_digest(given.encode(errors="surrogateescape"), wanted.encode())
