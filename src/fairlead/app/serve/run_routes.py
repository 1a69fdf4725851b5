"""Routes of one run of a tenant: how it stands, its events, its pictures, a choice of them, its end. No torch."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from fairlead.app.serve import asked, fields, images
from fairlead.app.serve.errors import Refused, json_response
from fairlead.app.serve.generate import Generator
from fairlead.app.serve.run_events import Listened
from fairlead.app.serve.run_view import described, picture
from fairlead.app.serve.runs import Runs
from fairlead.app.web.body import read_json
from fairlead.app.web.events import stream, streamed
from fairlead.run.follow import is_held

ID = re.compile(r"[0-9a-f]{32}")
MOST = 64
"""Pictures of a choice."""


class RunRoutes:
    """The routes over the runs of one server; `count` counts a request of a key that computes."""

    def __init__(self, runs: Runs, generator: Generator, count: Callable[[Request], None]) -> None:
        self._runs = runs
        self._generator = generator
        self._count = count

    def routes(self) -> list[Route]:
        """All of them."""
        return [
            Route("/v1/runs/{id}", self.run, methods=["GET"]),
            Route("/v1/runs/{id}", self.stop, methods=["DELETE"]),
            Route("/v1/runs/{id}/events", self.events),
            Route("/v1/runs/{id}/keep", self.keep, methods=["POST"]),
            Route("/v1/runs/{id}/images/{digest}", self.image),
        ]

    def _folder(self, request: Request) -> Path:
        """The folder of a run of this tenant, found by its id. A run that waits has none yet."""
        id: str = request.path_params["id"]
        tenant: str = request.state.tenant
        folder = self._runs.root / tenant / id
        if not ID.fullmatch(id) or not (folder.is_dir() or self._runs.find(tenant, id)):
            raise Refused(404, "run_not_found", f"There is no run {id!r:.40}.")
        return folder

    def _is_active(self, folder: Path) -> bool:
        """True while a run waits or is computed, maybe for an earlier server."""
        return self._runs.find(folder.parent.name, folder.name) is not None or is_held(folder)

    async def run(self, request: Request) -> Response:
        """How a run stands."""
        folder = self._folder(request)
        return json_response(await asyncio.to_thread(described, folder, self._is_active(folder)))

    async def stop(self, request: Request) -> Response:
        """Stop a run after its present batch; its record stays."""
        id = request.path_params["id"]
        active = self._runs.find(request.state.tenant, id)
        if active is None:
            folder = self._folder(request)
            return json_response(await asyncio.to_thread(described, folder, False))
        active.stop()
        return json_response({"id": id, "status": "stopping"})

    async def events(self, request: Request) -> Response:
        """What happens to a run after a position, as server-sent events. 204 where nothing will come any more."""
        folder = self._folder(request)
        after = request.headers.get("last-event-id") or request.query_params.get("after", "")
        source = Listened(folder, after, lambda: self._is_active(folder))
        if await asyncio.to_thread(source.is_over):
            return Response(status_code=204)
        return streamed(stream(source, lambda: self._runs.closing))

    async def keep(self, request: Request) -> Response:
        """Choose `{n, weight, likeness}` pictures of a run that are good and different, the most wanted first."""
        self._count(request)
        folder = self._folder(request)
        words = await read_json(request)
        fields.known_keys(words, ("n", "weight", "likeness"), "keep")
        n = fields.whole("n", words.pop("n", None), 1, MOST, 4)
        chosen = asked.keep(words, "keep")
        return json_response(await self._kept(folder, n, chosen))

    async def _kept(self, folder: Path, n: int, how: dict[str, Any]) -> dict[str, Any]:
        standing = await asyncio.to_thread(images.stands, folder)
        usable = 0 if standing is None else await asyncio.to_thread(images.usable, folder)
        if standing is None or usable == 0:
            raise images.nothing_yet(folder.name)
        place = f"{folder.parent.name}/{folder.name}"
        indices = await self._generator.choose(place, standing, min(n, usable), how)
        kept = await asyncio.to_thread(images.listed, folder, indices)
        warnings = [f"Only {usable} of {n} pictures have a reward."] if usable < n else []
        return {"run": folder.name, "kept": kept, "warnings": warnings}

    async def image(self, request: Request) -> Response:
        """A picture of a run by its digest, without its recipe."""
        folder = self._folder(request)
        data = await asyncio.to_thread(picture, folder, request.path_params["digest"])
        return Response(data, media_type="image/png", headers={"cache-control": "private, max-age=31536000, immutable"})
