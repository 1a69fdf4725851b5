"""Every answer that is an error: a JSON body with message, type, parameter and code, which OpenAI's clients show."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from fairlead.app.web.body import BadBody
from fairlead.core.errors import FairleadError

TYPES = {401: "authentication_error", 403: "permission_error", 409: "conflict_error", 429: "rate_limit_error"}
"""The word for a status; other statuses below 500 are invalid requests."""
FOLDERS = re.compile(r"(?<![\w/.])(?:~|\.{1,2})?/(?:[^\s'\"/:,;()]+/)*(?P<name>[^\s'\"/:,;()]+)")
ADDRESSES = re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s'\",)]+")


class Refused(Exception):
    """A request that is answered with a status, a code and a sentence."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message
        self.param = param
        self.headers = dict(headers or {})

    @property
    def value(self) -> dict[str, Any]:
        """The object below `error`."""
        kind = TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        if self.code == "insufficient_quota":
            kind = self.code
        return {"message": self.message, "type": kind, "param": self.param, "code": self.code}

    def response(self) -> Response:
        """The answer."""
        return json_response({"error": self.value}, self.status, self.headers)


def json_response(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON answer. A NaN in it is an error of ours, so it must have been replaced before."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    sent = {"cache-control": "no-store", **(headers or {})}
    return Response(text, status, media_type="application/json", headers=sent)


def invalid(param: str, message: str, code: str = "invalid_value") -> Refused:
    """The refusal of one field."""
    return Refused(400, code, message, param)


def busy(code: str, message: str, seconds: float, *, retry: bool = True) -> Refused:
    """429: the client may ask again after so many seconds; `retry` says whether it should do so by itself."""
    headers = {"retry-after": str(max(1, round(seconds)))}
    if not retry:
        headers["x-should-retry"] = "false"
    return Refused(429, code, message, headers=headers)


def unavailable(code: str, message: str) -> Refused:
    """503: another try in a few seconds may succeed."""
    return Refused(503, code, message, headers={"retry-after": "5"})


def without_places(sentence: str) -> str:
    """A sentence without folders and addresses of this machine: of a path only the last name stays."""
    return FOLDERS.sub(lambda found: found["name"], ADDRESSES.sub("an address", sentence))


def of_sentence(error: FairleadError, param: str | None = None) -> Refused:
    """The refusal that says an error's sentence."""
    return Refused(400, "invalid_value", without_places(str(error)), param)


async def _answer_refused(request: Request, error: Refused) -> Response:
    request.state.code = error.code  # for the metrics
    return error.response()


async def _answer_body(request: Request, error: BadBody) -> Response:
    return await _answer_refused(request, Refused(error.status, error.code, error.message, headers=error.headers))


async def _answer_error(request: Request, error: FairleadError) -> Response:
    return await _answer_refused(request, of_sentence(error))


async def _answer_http(request: Request, error: HTTPException) -> Response:
    path = request.url.path
    if error.status_code == 405:
        message = f"{request.method} is not used for {path!r:.80}."
        return await _answer_refused(request, Refused(405, "wrong_method", message, headers=error.headers))
    return await _answer_refused(
        request, Refused(error.status_code, "not_found", f"{path!r:.80} is not answered here.")
    )


async def _answer_bug(request: Request, error: Exception) -> Response:
    message = f"The server made an error in request {request.state.request}. Its log says where."
    return await _answer_refused(request, Refused(500, "internal", message))


HANDLERS: Mapping[Any, Callable[..., Any]] = {
    Refused: _answer_refused,
    BadBody: _answer_body,
    FairleadError: _answer_error,
    HTTPException: _answer_http,
    Exception: _answer_bug,
}
"""How each kind of error is answered. `gate.py` writes a bug into the log."""
