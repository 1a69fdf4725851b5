"""The body of a request, read within its limits."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from starlette.requests import Request

from fairlead.app.serve.errors import Refused

BODY = 1 << 20
"""Bytes of a request's body."""
SECONDS = 30.0
"""How long a body may take to arrive."""
DEPTH = 32
"""Levels of a request's JSON."""


async def read_json(request: Request, most: int = BODY) -> dict[str, Any]:
    """The JSON object that a request sends."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" or "content-encoding" in request.headers:
        raise Refused(415, "json_only", f"The body is {kind!r:.60}: must be plain application/json.")
    declared = request.headers.get("content-length", "0")
    if not declared.isdecimal() or int(declared[:20]) > most:
        raise _too_large(most)
    data = await _read(request, most)
    try:
        found = await asyncio.to_thread(json.loads, data, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise Refused(400, "invalid_json", f"The body is not JSON ({error!s:.80}).") from None
    if not isinstance(found, dict) or depth(found) > DEPTH:
        raise Refused(400, "invalid_json", f"The body must be a JSON object of at most {DEPTH} levels.")
    return found


async def _read(request: Request, most: int) -> bytes:
    data = bytearray()
    try:
        async with asyncio.timeout(SECONDS):
            async for chunk in request.stream():
                data += chunk
                if len(data) > most:
                    raise _too_large(most)
    except TimeoutError:
        raise Refused(408, "too_slow", f"The body did not arrive within {SECONDS:.0f} seconds.") from None
    return bytes(data)


def _too_large(most: int) -> Refused:
    return Refused(413, "too_large", f"The body must be at most {most} bytes.", headers={"connection": "close"})


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
