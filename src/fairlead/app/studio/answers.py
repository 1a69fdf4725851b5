"""Bodies that are read within limits, and errors that are answered in JSON with a sentence."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from fairlead.app.studio.library import Missing
from fairlead.core.errors import FairleadError, StoreError

BODY = 1 << 20
"""Bytes of a request's body."""
BODY_SECONDS = 30.0
DEPTH = 32
"""Levels of a request's JSON."""


class Refused(Exception):
    """A request that is answered with a status, a code and a sentence."""

    def __init__(self, status: int, code: str, message: str, **more: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message
        self.more = more
        """What the page needs to know besides."""


def refusal(status: int, code: str, message: str, **more: str) -> JSONResponse:
    """The answer to a request that is refused."""
    return JSONResponse({"error": {"code": code, "message": message, **more}}, status)


async def body(request: Request) -> dict[str, Any]:
    """The JSON object of a request, within its limits."""
    data = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                data += chunk
                if len(data) > BODY:
                    raise Refused(413, "too_large", f"The body must be at most {BODY} bytes.")
    except TimeoutError:
        raise Refused(408, "too_slow", f"The body did not arrive within {BODY_SECONDS:.0f} seconds.") from None
    try:
        found = json.loads(bytes(data), parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise Refused(400, "invalid_json", "The body is not JSON.") from None
    if not isinstance(found, dict) or _depth(found) > DEPTH:
        raise Refused(400, "invalid_json", f"The body must be a JSON object of at most {DEPTH} levels.")
    return found


def _no_constant(word: str) -> float:
    raise ValueError(f"{word} is not JSON")


def _depth(value: Any) -> int:
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


async def _answer_refused(request: Request, error: Refused) -> Response:
    return refusal(error.status, error.code, error.message, **error.more)


async def _answer_error(request: Request, error: FairleadError) -> Response:
    status = 409 if isinstance(error, StoreError) else 422
    return refusal(404 if isinstance(error, Missing) else status, type(error).__name__, str(error))


async def _answer_http(request: Request, error: HTTPException) -> Response:
    return refusal(error.status_code, "not_found", f"{request.url.path!r:.80} is not answered here.")


async def _answer_bug(request: Request, error: Exception) -> Response:
    message = f"{type(error).__name__}: {error!s:.200} (a bug in fairlead: please report it)"
    return refusal(500, "internal", message)


HANDLERS: Mapping[Any, Callable[..., Any]] = {
    Refused: _answer_refused,
    FairleadError: _answer_error,
    HTTPException: _answer_http,
    Exception: _answer_bug,
}
"""How each kind of error is answered."""
