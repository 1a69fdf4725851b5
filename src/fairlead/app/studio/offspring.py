"""Runs that start from a picture of another one: the verbs of a picture, queued as ordinary runs."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from fairlead.app.studio.library import Library, run_id
from fairlead.app.web.body import read_json
from fairlead.app.workers import form
from fairlead.app.workers.jobs import Jobs
from fairlead.app.workers.supervisor import Crew
from fairlead.app.workers.vouching import vouch
from fairlead.core.check import one_of
from fairlead.core.errors import FairleadError
from fairlead.run.parent import VERBS
from fairlead.run.view import View


class Offspring:
    """The route over one runs folder."""

    def __init__(self, library: Library, jobs: Jobs, crew: Crew) -> None:
        self._library = library
        self._jobs = jobs
        self._crew = crew

    def routes(self) -> list[Route]:
        """The only one."""
        return [Route("/api/runs/{id}/offspring", self.start, methods=["POST"])]

    async def start(self, request: Request) -> Response:
        """Queue a run from a picture: `{candidate, verb, prompt, budget}`; the last two may be left out."""
        words = await read_json(request)
        options = await asyncio.to_thread(self._options, request.path_params["id"], words)
        await asyncio.to_thread(_check, form.read_options(options))
        job = await asyncio.to_thread(partial(self._jobs.add, options, ready=partial(vouch, self._library.root)))
        await asyncio.to_thread(self._crew.wake)
        return JSONResponse({"run": run_id(job.folder), "job": job.id, "options": options})

    def _options(self, id: str, words: dict[str, Any]) -> dict[str, Any]:
        folder = self._library.recorded(id)
        verb = one_of("verb", words.get("verb"), VERBS)
        candidate = words.get("candidate")
        if not isinstance(candidate, int) or isinstance(candidate, bool):
            raise FairleadError(f"candidate is {candidate!r:.60}: must be the number of a picture of this run.")
        spec = View.read(folder).spec
        place = f"{folder.resolve()}:{candidate}"
        options: dict[str, Any] = {verb: place, "prompt": str(words.get("prompt") or spec.prompt)}
        if words.get("budget"):
            options["budget"] = str(words["budget"])
        # The same verb on the same picture again: other neighbours.
        before = [job for job in self._jobs.all() if job.options.get(verb) == place]
        rows = self._library.list()
        made = [row for row in rows if _is_child(row.get("parent"), verb, folder.name, candidate)]
        if again := len(before) + len(made):
            options["seed"] = spec.seed + again
        return options


def _is_child(parent: Any, verb: str, name: str, candidate: int) -> bool:
    """True if a row of the list says that it was drawn from this picture."""
    return bool(parent) and (parent["verb"], parent["name"], parent["candidate"]) == (verb, name, candidate)


def _check(options: Any) -> None:
    """Refuse at once what needs no model to be refused."""
    from fairlead.run import models

    models.spec_of(options)
