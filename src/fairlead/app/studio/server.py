"""The studio's web server: routes that read run folders and queue jobs. It holds no model and imports no torch."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Coroutine, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fairlead.app.studio import events, values
from fairlead.app.studio.answers import HANDLERS, Refused, refusal
from fairlead.app.studio.guard import HEADERS, Asked, Guard
from fairlead.app.studio.judging import Judging
from fairlead.app.studio.judging_across import JudgingAcross
from fairlead.app.studio.keeping import Keeping
from fairlead.app.studio.library import Library, Missing, run_id
from fairlead.app.studio.offspring import Offspring
from fairlead.app.studio.page_files import smaller, static_files
from fairlead.app.studio.refusals import field_of, named_in, need_yes
from fairlead.app.studio.watch_routes import WatchRoutes
from fairlead.app.web.body import read_json
from fairlead.app.web.events import stream, streamed
from fairlead.app.workers import form
from fairlead.app.workers.address import WORKER
from fairlead.app.workers.jobs import Job, Jobs, State
from fairlead.app.workers.supervisor import Crew
from fairlead.app.workers.vouching import forget, formulas_in, formulas_of, pass_on, vouch
from fairlead.core.errors import FairleadError, StoreError, unknown
from fairlead.run import config, marks
from fairlead.run.follow import Follower
from fairlead.run.question_store import QuestionStore
from fairlead.run.spec import parse_budget
from fairlead.run.view import View

DIGEST = re.compile(r"[0-9a-f]{32}")


class Guarded:
    """The checks of `guard.py` before the application, and its headers on what comes back."""

    def __init__(self, app: ASGIApp, guard: Guard) -> None:
        self._app, self._guard = app, guard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or refuse."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                extra = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message = {**message, "headers": [*message["headers"], *extra]}
            await send(message)

        sent: dict[str, list[str]] = {}
        for name, value in scope["headers"]:
            sent.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
        refused = self._guard.check(Asked(scope["method"], scope["path"], sent))
        answer = self._app if refused is None else refusal(refused.status, refused.code, refused.message)
        await answer(scope, receive, with_headers)


class Studio:
    """The routes over one runs folder."""

    def __init__(self, root: Path, guard: Guard, idle: float, workers: Sequence[str] = (WORKER,)) -> None:
        self.guard = guard
        self.jobs = Jobs(root)
        self.crew = Crew(root, self.jobs, idle, workers)
        self.library = Library(root, self.jobs, self.crew)
        self.closing = False
        self._static = static_files()

    def app(self) -> ASGIApp:
        """The application with its checks."""
        routes = [
            Route("/", self.index),
            Route("/static/{name:path}", self.static),
            Route("/api/session", self.session),
            Route("/api/form", self.form),
            Route("/api/price", self.price, methods=["POST"]),
            Route("/api/jobs", self.start, methods=["POST"]),
            Route("/api/runs", self.runs),
            Route("/api/events", self.list_events),
            Route("/api/runs/{id}", self.run),
            Route("/api/runs/{id}/events", self.run_events),
            Route("/api/runs/{id}/images/{digest}", self.image),
            Route("/api/runs/{id}/stop", self.stop, methods=["POST"]),
            Route("/api/runs/{id}/resume", self.resume, methods=["POST"]),
            Route("/api/runs/{id}/device", self.rebind, methods=["POST"]),
            Route("/api/runs/{id}/marks", self.mark, methods=["POST"]),
            Route("/api/runs/{id}/trash", self.trash, methods=["POST"]),
            Route("/api/trash/{id}/restore", self.restore, methods=["POST"]),
            *WatchRoutes(self.library, self.crew).routes(),
            *Offspring(self.library, self.jobs, self.crew).routes(),
            *Judging(self.library, self.jobs, self.crew.wake).routes(),
            *JudgingAcross(self.library).routes(),
            *Keeping(self.library, self._work).routes(),
        ]
        inner = Starlette(routes=routes, exception_handlers=HANDLERS, lifespan=self._lifespan)
        return Guarded(inner, self.guard)

    def end(self) -> None:
        """Close the streams; called at the first signal."""
        self.closing = True

    @contextlib.asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        follower = asyncio.create_task(self.crew.run())
        try:
            yield
        finally:
            follower.cancel()

    # the page

    async def index(self, request: Request) -> Response:
        """The page; the printed link also sets the cookie."""
        data, kind = self._static["index.html"]
        answer = Response(data, media_type=kind, headers={"cache-control": "no-store"})
        if self.guard.opens(request.query_params.get("token")):
            answer.set_cookie(self.guard.cookie, self.guard.keys.reading, httponly=True, samesite="strict", path="/")
        return answer

    async def static(self, request: Request) -> Response:
        """A file of the page, from the list of those that exist."""
        found = self._static.get(request.path_params["name"])
        if found is None:
            raise Refused(404, "not_found", f"There is no file {request.path_params['name']!r:.60}.")
        return Response(found[0], media_type=found[1], headers={"cache-control": "no-cache"})

    async def session(self, request: Request) -> Response:
        """The token that changes need. Only the studio's own page can read this answer."""
        return _json({"token": self.guard.keys.writing})

    # runs

    def runs(self, request: Request) -> Response:
        """Every run and job, the latest first."""
        return _json({"runs": self.library.list(), "folder": str(self.library.root)})

    def run(self, request: Request) -> Response:
        """One run, whole."""
        return _json(values.whole(*self.library.find(request.path_params["id"]), self.library.standing))

    async def run_events(self, request: Request) -> Response:
        """What happens to a run after a position."""
        folder, _ = await asyncio.to_thread(self.library.find, request.path_params["id"])
        after = request.headers.get("last-event-id") or request.query_params.get("after", "")
        job = partial(self.jobs.of, folder.name)
        progress = partial(self.crew.state_of, folder.name)
        source = events.PageEvents(folder, after, job, progress, self.library.standing)
        return streamed(stream(source, lambda: self.closing))

    async def list_events(self, request: Request) -> Response:
        """A sign whenever the list of runs has changed."""
        return streamed(events.list_stream(self._list_stamp, lambda: self.closing))

    def _list_stamp(self) -> object:
        rows = self.library.list()
        return [(row["id"], row.get("candidates"), row.get("stars"), row.get("state")) for row in rows]

    def image(self, request: Request) -> Response:
        """A picture of a run by its digest; `?thumb=1` makes large ones smaller."""
        digest = request.path_params["digest"]
        folder = self.library.recorded(request.path_params["id"])
        if not DIGEST.fullmatch(digest):
            raise Refused(404, "not_found", f"{digest!r:.40} is not the name of a picture.")
        follower = Follower(folder)
        try:
            if not follower.has_picture(digest) and not QuestionStore(folder).shows(digest):
                raise Missing(f"{folder.name} has no picture {digest!r:.40}.")
            data = follower.store.image(digest)
        finally:
            follower.close()
        kind = "image/png"
        if request.query_params.get("thumb") and (small := smaller(data)) is not None:
            data, kind = small, "image/webp"
        return Response(data, media_type=kind, headers={"cache-control": "private, max-age=31536000, immutable"})

    # changes

    async def form(self, request: Request) -> Response:
        """What the form of a new run shows."""
        return _json({**await asyncio.to_thread(form.form, config.of_a_run()), "devices": self.crew.devices})

    async def price(self, request: Request) -> Response:
        """What a run would cost, or why it would be refused, and the same run as a command."""
        sent = await read_json(request)
        try:
            options = form.read_options(sent.get("options"), config.of_a_run())
        except FairleadError as error:
            return _json({"error": str(error), "field": named_in(str(error))})
        lines = {"command": form.command_line(options), "python": form.python_call(options)}
        try:
            need_yes(formulas_of(options), sent.get("agreed"))
            await asyncio.to_thread(_check, options)
            found = await self._unless_closing(self.crew.price(form.job_options(options)))
        except FairleadError as error:
            found = {"error": str(error)}
        except Refused as refused:
            return _json({"error": refused.message, **refused.more, **lines})
        if "error" in found:
            found["field"] = await asyncio.to_thread(field_of, found["error"], options, _check)
        return _json({**found, **lines})

    async def _work(self, failure: str, **message: Any) -> dict[str, Any]:
        """What the process that computes answers."""
        return await self._unless_closing(self.crew.work(failure, **message))

    async def _unless_closing(self, work: Coroutine[Any, Any, dict[str, Any]]) -> dict[str, Any]:
        """The result of some work, unless the server ends before it."""
        task = asyncio.create_task(work)
        while not task.done():
            if self.closing:
                task.cancel()
                raise FairleadError(f"The studio on {self.library.root} ends. Start it again.")
            await asyncio.wait([task], timeout=0.2)
        return task.result()

    async def start(self, request: Request) -> Response:
        """Queue a new run."""
        sent = await read_json(request)
        device = self._device(sent)
        options = form.read_options(sent.get("options"), config.of_a_run())
        need_yes(formulas_of(options), sent.get("agreed"))
        await asyncio.to_thread(_check, options)
        job = await asyncio.to_thread(
            lambda: self.jobs.add(form.job_options(options), device=device, ready=self._vouch)
        )
        await asyncio.to_thread(self.crew.wake)
        return _json({"run": run_id(job.folder), "job": job.id})

    def _device(self, sent: dict[str, Any]) -> str:
        """A device that this studio uses; empty for the first that is free."""
        device = str(sent.get("device", ""))
        if device and device not in self.crew.devices:
            raise unknown("device", device, self.crew.devices)
        return device

    async def rebind(self, request: Request) -> Response:
        """Queue a waiting run for another device."""
        device = self._device(await read_json(request))
        folder, job = await asyncio.to_thread(self.library.find, request.path_params["id"])
        if job is None:
            raise StoreError(f"{folder.name} does not wait for a device. Reload the page.")
        root = self.library.root
        await asyncio.to_thread(self.jobs.rebind, job, device, lambda new: pass_on(root, job, new))
        await asyncio.to_thread(self.crew.wake)
        return _json({"run": run_id(folder.name), "job": job.id})

    def _vouch(self, job: Job) -> None:
        vouch(self.library.root, job)

    async def stop(self, request: Request) -> Response:
        """Stop the job of a run after its present batch, or take it out of the queue."""
        await read_json(request)
        return _json(await asyncio.to_thread(self._stop, request.path_params["id"]))

    def _stop(self, id: str) -> dict[str, Any]:
        folder, job = self.library.find(id)
        if job is None or job.state is State.FAILED:
            raise StoreError(f"{folder.name} is not computed by this studio. Stop it where it was started.")
        if job.state is State.QUEUED and self.jobs.remove(job):
            forget(self.library.root, job)
        else:
            self.crew.stop(job)
        return {"job": job.id}

    async def resume(self, request: Request) -> Response:
        """Queue the continuation of a run, with a larger budget if one is sent."""
        sent = await read_json(request)
        budget = sent.get("budget")
        limits = None if budget in (None, "") else parse_budget(str(budget))
        folder = await asyncio.to_thread(self.library.recorded, request.path_params["id"])
        spec = (await asyncio.to_thread(View.read, folder)).spec
        need_yes(formulas_in(spec), sent.get("agreed"))
        more = {"trust": bool(sent.get("agreed")), "ready": self._vouch}
        job = await asyncio.to_thread(lambda: self.jobs.resume(folder.name, limits, **more))
        await asyncio.to_thread(self.crew.wake)
        return _json({"run": run_id(folder.name), "job": job.id})

    async def mark(self, request: Request) -> Response:
        """Star, reject or note one candidate."""
        words = await read_json(request)
        candidate, value = words.get("candidate"), words.get("value", "")
        if not isinstance(candidate, int) or isinstance(candidate, bool) or not isinstance(value, str):
            raise FairleadError(f"A mark is {words!r:.80}: must have a candidate's number, a kind and a text as value.")
        folder = await asyncio.to_thread(self.library.recorded, request.path_params["id"])
        kind, who = str(words.get("kind")), str(words.get("who", ""))
        made = await asyncio.to_thread(marks.add, folder, candidate, kind, value, who)
        return _json(made.as_dict())

    async def trash(self, request: Request) -> Response:
        """Move a run to the trash folder."""
        await read_json(request)
        name = await asyncio.to_thread(self.library.trash, request.path_params["id"])
        return _json({"name": name, "id": run_id(name) if name else ""})

    async def restore(self, request: Request) -> Response:
        """Move a run out of the trash folder."""
        await read_json(request)
        return _json({"id": await asyncio.to_thread(self.library.restore, request.path_params["id"])})


def _check(options: Any) -> None:
    """Refuse at once what needs no model to be refused."""
    from fairlead.run import models

    models.spec_of(options)


def _json(value: Any) -> Response:
    return JSONResponse(value, headers={"cache-control": "no-store"})
