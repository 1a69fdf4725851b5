"""Errors, answered in JSON with a sentence."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from fairlead.app.studio.library import Missing
from fairlead.app.web.body import BadBody
from fairlead.core.errors import FairleadError, StoreError


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


async def _answer_refused(request: Request, error: Refused) -> Response:
    return refusal(error.status, error.code, error.message, **error.more)


async def _answer_body(request: Request, error: BadBody) -> Response:
    return refusal(error.status, error.code, error.message)


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
    BadBody: _answer_body,
    FairleadError: _answer_error,
    HTTPException: _answer_http,
    Exception: _answer_bug,
}
"""How each kind of error is answered."""
