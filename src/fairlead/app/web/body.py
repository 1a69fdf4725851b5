"""The body of a request, read within its limits."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request

BODY = 1 << 20
"""Bytes of a request's body."""
SECONDS = 30.0
"""How long a body may take to arrive."""
DISCARDED, DISCARD_SECONDS = 1 << 26, 5.0
"""Bytes of an unwanted body that are read, and how long that may take."""
DEPTH = 32
"""Levels of a request's JSON."""


class BadBody(Exception):
    """A body that is refused with a status, a code and a sentence; each server says it in its own shape."""

    def __init__(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message
        self.headers = dict(headers or {})


async def read_json(request: Request, most: int = BODY) -> dict[str, Any]:
    """The JSON object that a request sends."""
    check_kind(request.headers.get("content-type"), "content-encoding" in request.headers)
    declared = request.headers.get("content-length", "0")
    if not declared.isdecimal() or int(declared[:20]) > most:
        await throw_away(request)
        raise _too_large(most)
    data = await read_bytes(request, most)
    try:
        found = await asyncio.to_thread(json.loads, data, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise BadBody(400, "invalid_json", f"The body is not JSON ({error!s:.80}).") from None
    if not isinstance(found, dict) or depth(found) > DEPTH:
        raise BadBody(400, "invalid_json", f"The body must be a JSON object of at most {DEPTH} levels.")
    return found


def check_kind(content_type: str | None, is_encoded: bool) -> None:
    """Refuse what is not plain JSON. A page of another site can send anything else without asking first."""
    kind = (content_type or "").partition(";")[0].strip().lower()
    if kind != "application/json" or is_encoded:
        raise BadBody(415, "json_only", f"The body is {kind!r:.60}: must be plain application/json.")


async def read_bytes(request: Request, most: int) -> bytes:
    """The body as it was sent, refused where it is too large or too slow."""
    data = bytearray()
    try:
        async with asyncio.timeout(SECONDS):
            async for chunk in request.stream():
                data += chunk
                if len(data) > most:
                    raise _too_large(most)
    except TimeoutError:
        raise BadBody(408, "too_slow", f"The body did not arrive within {SECONDS:.0f} seconds.") from None
    return bytes(data)


async def throw_away(request: Request) -> None:
    """Read a body that is not wanted, within limits: a client that still sends when the connection closes never sees
    the answer.
    """
    seen = 0
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DISCARD_SECONDS):
            async for part in request.stream():
                seen += len(part)
                if seen > DISCARDED:
                    break


def _too_large(most: int) -> BadBody:
    return BadBody(413, "too_large", f"The body must be at most {most} bytes.", {"connection": "close"})


def _no_constant(word: str) -> float:
    raise ValueError(f"{word} is not JSON")


def depth(value: Any) -> int:
    """Levels of a JSON value; stops counting one above the limit."""
    deepest = 0
    layer = [value]
    while layer and deepest <= DEPTH:
        deepest += 1
        inner: list[Any] = []
        for one in layer:
            if isinstance(one, dict):
                inner += one.values()
            elif isinstance(one, list):
                inner += one
        layer = inner
    return deepest
