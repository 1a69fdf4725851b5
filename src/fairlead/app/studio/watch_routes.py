"""Routes of what is seen beside a record: a batch that forms, and how a picture has formed. The worker answers."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from fairlead.app.studio.answers import Refused
from fairlead.app.studio.library import Library
from fairlead.app.web.body import read_json
from fairlead.app.workers.address import ask
from fairlead.app.workers.previews import Switch
from fairlead.app.workers.supervisor import Crew
from fairlead.core.errors import FairleadError

STRIPS = 8
"""Strips that the server remembers, the latest."""


class WatchRoutes:
    """The routes over one runs folder."""

    def __init__(self, library: Library, crew: Crew) -> None:
        self._library = library
        self._crew = crew
        self._strips: dict[tuple[str, int], dict[int, bytes]] = {}
        self._switch = Switch(library.root)

    def routes(self) -> list[Route]:
        """All of them."""
        return [
            Route("/api/previews", self.switch),
            Route("/api/previews", self.set_switch, methods=["POST"]),
            Route("/api/runs/{id}/previews/{index}", self.preview),
            Route("/api/runs/{id}/strip", self.strip, methods=["POST"]),
            Route("/api/runs/{id}/strip/{index}/{step}", self.strip_picture),
        ]

    async def switch(self, request: Request) -> Response:
        """How many steps lie between two previews; 0: they are off."""
        return _json({"every": self._switch.read()})

    async def set_switch(self, request: Request) -> Response:
        """Choose it, for every run of this studio."""
        words = await read_json(request)
        return _json({"every": await asyncio.to_thread(self._switch.set, words.get("every"))})

    async def preview(self, request: Request) -> Response:
        """The clean prediction of a candidate that forms now."""
        folder, _ = await asyncio.to_thread(self._library.find, request.path_params["id"])
        index = _whole(request.path_params["index"])
        found = await self._ask({"do": "preview", "folder": folder.name, "index": index})
        return _picture(found.get("image", ""))

    async def strip(self, request: Request) -> Response:
        """Render `{candidate}` again and show it at every step; `{steps, identical, message, cost}`."""
        index = (await read_json(request)).get("candidate")
        if not isinstance(index, int) or isinstance(index, bool):
            raise FairleadError(f"candidate is {index!r:.60}: must be the number of a picture of this run.")
        folder = await asyncio.to_thread(self._library.recorded, request.path_params["id"])
        message = {"do": "strip", "folder": folder.name, "candidate": index}
        found = await self._crew.work("The picture was not rendered again", **message)
        if "error" in found:
            raise FairleadError(str(found["error"]))
        pictures = {one["step"]: base64.b64decode(one.pop("image")) for one in found["steps"]}
        while len(self._strips) >= STRIPS:
            self._strips.pop(next(iter(self._strips)))
        self._strips[request.path_params["id"], index] = pictures
        return _json(found)

    async def strip_picture(self, request: Request) -> Response:
        """One picture of a strip that was made a moment ago."""
        place = (request.path_params["id"], _whole(request.path_params["index"]))
        data = self._strips.get(place, {}).get(_whole(request.path_params["step"]))
        if data is None:
            return Response(status_code=204)
        return Response(data, media_type="image/webp", headers={"cache-control": "private, max-age=3600"})

    async def _ask(self, message: Mapping[str, Any]) -> dict[str, Any]:
        try:
            worker = self._crew.worker_of(str(message["folder"]))
            return await asyncio.to_thread(ask, self._library.root, message, 5.0, worker)
        except (OSError, ValueError):
            return {}


def _whole(text: str) -> int:
    try:
        return int(text[:20])
    except ValueError:
        raise Refused(404, "not_found", f"{text!r:.40} is not the number of a candidate.") from None


def _picture(text: str) -> Response:
    """A picture; nothing where it has gone, which is no error: the next one is on its way."""
    if not text:
        return Response(status_code=204)
    return Response(base64.b64decode(text), media_type="image/webp", headers={"cache-control": "no-store"})


def _json(value: Any) -> Response:
    return JSONResponse(value, headers={"cache-control": "no-store"})
