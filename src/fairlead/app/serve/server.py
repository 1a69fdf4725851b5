"""The server of `fairlead serve`: its routes, its start and its end. It holds no model and imports no torch."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp

from fairlead.app.serve import keeps, scores
from fairlead.app.serve.allowed import Allowed
from fairlead.app.serve.budgets import LIMITS
from fairlead.app.serve.errors import HANDLERS, Refused, json_response, unavailable
from fairlead.app.serve.gate import Gate
from fairlead.app.serve.generate import Generator
from fairlead.app.serve.images import Order
from fairlead.app.serve.keys import HOME, Caller, KeyFile
from fairlead.app.serve.log import Log
from fairlead.app.serve.metrics import Metrics
from fairlead.app.serve.models import Served
from fairlead.app.serve.quotas import Quotas, Reservation
from fairlead.app.serve.run_events import Listened
from fairlead.app.serve.run_view import described, picture
from fairlead.app.serve.runs import LINGER, Listener, Runs, SharedRun
from fairlead.app.web.body import read_json, throw_away
from fairlead.app.web.events import stream, streamed
from fairlead.core.cost import Cost
from fairlead.core.errors import FairleadError
from fairlead.run.follow import is_held

ID = re.compile(r"[0-9a-f]{32}")
GRACE = 30
"""Seconds that open requests have after the first signal."""


@dataclass(frozen=True)
class Setup:
    """How a server was started."""

    runs: Path
    served: Mapping[str, Served]
    allowed: Allowed = field(default_factory=Allowed)
    most: Mapping[str, float] = field(default_factory=lambda: dict(LIMITS))
    fresh: bool = False
    keys: KeyFile | None = None
    hosts: tuple[str, ...] = ()
    is_open: bool = False
    """True if it listens for other machines."""
    idle: float = 900.0
    linger: float = LINGER
    queue: int = 32
    log_prompts: bool = False


class Mounted(Protocol):
    """Routes from elsewhere, behind the same gate."""

    @property
    def routes(self) -> Sequence[BaseRoute]:
        """What they are."""

    def running(self) -> contextlib.AbstractAsyncContextManager[None]:
        """Open while the server answers."""


class Application:
    """The routes over one runs folder."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.metrics = Metrics()
        self.log = Log(prompts=setup.log_prompts)
        self.runs = Runs(
            setup.runs,
            setup.idle,
            linger=setup.linger,
            most_waiting=setup.queue,
            most_seconds=setup.most["seconds"],
        )
        self.runs.on_end = self._ended
        self.runs.reserve = self._reserve
        self.quotas = None if setup.keys is None else Quotas(setup.runs / HOME / "quotas.sqlite")
        self._reservations: dict[SharedRun, list[Reservation]] = defaultdict(list)
        self.generator = Generator(self.runs, setup.served, setup.allowed, setup.most, setup.fresh)
        self.is_ready = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closing: asyncio.Task[None] | None = None
        self.mounted: list[Mounted] = []
        """What answers beside the routes of this file."""
        self.metrics.read |= {
            "fairlead_queue_length": lambda: len(self.runs.turns),
            "fairlead_streams_open": lambda: self.generator.streams,
            "fairlead_worker_up": lambda: self.runs.supervisor.is_up,
            "fairlead_worker_restarts_total": lambda: max(0, self.runs.supervisor.starts - 1),
        }

    def app(self) -> ASGIApp:
        """The application with its checks."""
        post = ["POST"]
        routes: list[BaseRoute] = [
            Route("/v1/images/generations", self.generations, methods=post),
            Route("/v1/images/edits", self.no_edits, methods=post),
            Route("/v1/images/variations", self.no_edits, methods=post),
            Route("/v1/score", self.score, methods=post),
            Route("/v1/keep", self.keep, methods=post),
            Route("/v1/price", self.price, methods=post),
            Route("/v1/models", self.models),
            Route("/v1/models/{name:path}", self.model),
            Route("/v1/runs/{id}", self.run, methods=["GET"]),
            Route("/v1/runs/{id}", self.stop, methods=["DELETE"]),
            Route("/v1/runs/{id}/keep", self.keep_of_run, methods=post),
            Route("/v1/runs/{id}/events", self.run_events),
            Route("/v1/runs/{id}/images/{digest}", self.image),
            Route("/healthz", self.health),
            Route("/readyz", self.ready),
            Route("/metrics", self.measured),
        ]
        for one in self.mounted:
            routes += one.routes
        inner = Starlette(routes=routes, exception_handlers=HANDLERS, lifespan=lambda app: self.running())
        return Gate(
            inner,
            keys=self.setup.keys,
            hosts=self.setup.hosts,
            open_to_others=self.setup.is_open,
            metrics=self.metrics,
            log=self.log,
        )

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Follow the worker and load the default model for as long as the context is open."""
        self._loop = asyncio.get_running_loop()
        follower = asyncio.create_task(self.runs.supervisor.run())
        warming = asyncio.create_task(self._warm())
        try:
            async with contextlib.AsyncExitStack() as stack:
                for one in self.mounted:
                    await stack.enter_async_context(one.running())
                yield
        finally:
            await self._close()
            warming.cancel()
            follower.cancel()
            with contextlib.suppress(OSError, ValueError):
                await asyncio.to_thread(self.runs.supervisor.end)

    async def _warm(self) -> None:
        """Load the default model before the first request."""
        first = next(iter(self.setup.served.values()))
        while not self.is_ready:
            with contextlib.suppress(FairleadError):
                options = {"prompt": "a dog", "model": first.model}
                found = await self.runs.supervisor.work("The model was not loaded", do="costs", options=options)
                if "error" in found:
                    self.log.write("not ready", model=first.name, reason=found["error"])
                    return
                self.is_ready = True

    def end(self) -> None:
        """From a signal: open requests answer with what there is, then the server ends."""
        self.runs.closing = True
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._start_closing)

    def _start_closing(self) -> None:
        if self._closing is None:
            self._closing = asyncio.ensure_future(self.runs.close())

    async def _close(self) -> None:
        self._start_closing()
        assert self._closing is not None
        await self._closing

    # pictures

    async def generations(self, request: Request) -> Response:
        """Pictures for a prompt."""
        order, run, listener = await self.join(await self._body(request), caller(request), request.headers)
        request.state.run = order.run
        request.state.prompt = order.asked.words["prompt"]
        if not order.asked.stream:
            return await self.generator.whole(request, order, run, listener)
        return self.generator.stream(order, run, listener)

    async def _body(self, request: Request) -> dict[str, Any]:
        """The body of a request that is counted for its key."""
        if self.runs.closing:
            raise _closing()
        self.count(caller(request))
        return await read_json(request)

    async def join(
        self, body: dict[str, Any], asker: Caller, headers: Mapping[str, str]
    ) -> tuple[Order, SharedRun, Listener]:
        """The run that a request for pictures waits for; `runs.leave` must be called when the request ends."""
        if self.runs.closing:
            raise _closing()
        order, options, budget, _ = await self.generator.order(body, asker.tenant, headers)
        self._check_runs(asker, order.run)
        trust = order.asked.uses_alias(self.setup.allowed.aliases)
        run, listener = self.runs.join(asker.tenant, order.run, options, budget, trust)
        run.label = order.asked.served.name
        if run.is_done_for(budget):
            self.metrics.add("fairlead_run_cache_hits_total")
        return order, run, listener

    # quotas

    def count(self, asker: Caller) -> None:
        """Count a request of a key."""
        if self.quotas is not None:
            self.quotas.check_request(asker.tenant, asker.limits)

    def _check_runs(self, asker: Caller, id: str) -> None:
        """Refuse another run of a key that has too many; joining one costs nothing."""
        if self.quotas is None or self.runs.find(asker.tenant, id) is not None:
            return
        mine = [run for run in self.runs.active() if run.tenant == asker.tenant]
        waiting = sum(run.started is None for run in mine)
        self.quotas.check_runs(asker.limits, len(mine), waiting)

    def _reserve(self, run: SharedRun, nfe: float) -> None:
        """Book the price of a run on its key."""
        if self.quotas is None or self.setup.keys is None:
            return
        key = self.setup.keys.keys().get(run.tenant)
        limits = {} if key is None else key.limits
        self._reservations[run].append(self.quotas.reserve(run.tenant, limits, nfe))

    def _settle(self, run: SharedRun, spent: Cost) -> None:
        """Replace what was booked for a run by its bill."""
        booked = self._reservations.pop(run, [])
        for place, one in enumerate(booked):
            if self.quotas is not None:
                self.quotas.settle(one, spent if place == 0 else Cost())

    async def no_edits(self, request: Request) -> Response:
        """Pictures as input."""
        await throw_away(request)
        message = f"{request.url.path!r} is not offered: the served models make pictures from text alone."
        raise Refused(404, "edits_unsupported", message, headers={"connection": "close"})

    async def price(self, request: Request) -> Response:
        """What a request for pictures would spend; nothing is computed."""
        self.count(caller(request))
        return json_response(await self.priced(await read_json(request), caller(request), request.headers))

    async def priced(self, body: dict[str, Any], asker: Caller, headers: Mapping[str, str]) -> dict[str, Any]:
        """The run, the budget and the number of pictures of a request, and what a picture costs."""
        order, _, budget, costs = await self.generator.order(body, asker.tenant, headers)
        each = {"nfe": costs.each, "dollars": costs.dollars}
        return {"run": order.run, "budget": budget, "pictures": costs.pictures(budget["nfe"]), "each": each}

    async def score(self, request: Request) -> Response:
        """Numbers for pictures that exist."""
        self.count(caller(request))
        body = await read_json(request, scores.BODY)
        if (reward := request.query_params.get("reward")) is not None:
            body.setdefault("reward", reward)
        return json_response(await self.scored(body))

    async def scored(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """The answer of /v1/score."""
        found = await scores.answer(body, self.setup.allowed, self.runs.supervisor)
        label = scores.label(found["reward"], self.setup.allowed)
        self.metrics.add("fairlead_scores_total", len(found["scores"]), reward=label)
        return found

    async def keep(self, request: Request) -> Response:
        """Of pictures that are sent, those that are good and different."""
        self.count(caller(request))
        body = await read_json(request, scores.BODY)
        return json_response(await keeps.of_pictures(body, self.runs.supervisor))

    async def keep_of_run(self, request: Request) -> Response:
        """Of the candidates of a run, those that are good and different. Nothing is stored."""
        self.count(caller(request))
        folder = self.folder_of(caller(request).tenant, request.path_params["id"])
        return json_response(await keeps.of_run(await read_json(request), folder, self.runs))

    # what there is

    async def models(self, request: Request) -> Response:
        """Every served model."""
        return json_response({"object": "list", "data": [one.listed() for one in self.setup.served.values()]})

    async def model(self, request: Request) -> Response:
        """One served model."""
        name = request.path_params["name"]
        if name not in self.setup.served:
            raise Refused(404, "model_not_found", f"The model {name!r:.60} is not served here.", "model")
        return json_response(self.setup.served[name].listed())

    def folder_of(self, tenant: str, id: str) -> Path:
        """The folder of a run of a tenant, found by its id."""
        folder = self.setup.runs / tenant / id
        if not ID.fullmatch(id) or not (folder.is_dir() or self.runs.find(tenant, id)):
            raise Refused(404, "run_not_found", f"There is no run {id!r:.40}.")
        return folder

    def _folder(self, request: Request) -> Path:
        return self.folder_of(request.state.tenant, request.path_params["id"])

    async def run(self, request: Request) -> Response:
        """How a run stands."""
        folder = self._folder(request)
        active = self.runs.find(request.state.tenant, folder.name)
        return json_response(await asyncio.to_thread(described, folder, active is not None))

    async def stop(self, request: Request) -> Response:
        """Stop a run after its present batch; its record stays."""
        id = request.path_params["id"]
        active = self.runs.find(request.state.tenant, id)
        if active is None:
            folder = self._folder(request)
            return json_response(await asyncio.to_thread(described, folder, False))
        active.stop()
        return json_response({"id": id, "status": "stopping"})

    async def run_events(self, request: Request) -> Response:
        """What happens to a run after a position, as server-sent events. 204 where nothing will come any more."""
        folder = self._folder(request)
        tenant: str = request.state.tenant
        after = request.headers.get("last-event-id") or request.query_params.get("after", "")
        source = Listened(folder, after, lambda: self.runs.find(tenant, folder.name) is not None or is_held(folder))
        if await asyncio.to_thread(source.is_over):
            return Response(status_code=204)
        return streamed(stream(source, lambda: self.runs.closing))

    async def image(self, request: Request) -> Response:
        """A picture of a run by its digest, without its recipe."""
        folder = self._folder(request)
        data = await asyncio.to_thread(picture, folder, request.path_params["digest"])
        return Response(data, media_type="image/png", headers={"cache-control": "private, max-age=31536000, immutable"})

    # how it is

    async def health(self, request: Request) -> Response:
        """The server answers."""
        return json_response({"ok": True})

    async def ready(self, request: Request) -> Response:
        """The worker is up and the default model was loaded."""
        if not (self.is_ready and self.runs.supervisor.is_up) or self.runs.closing:
            raise unavailable("worker_down", f"Not ready: {request.url.path} answers 200 when the model is loaded.")
        return json_response({"ok": True})

    async def measured(self, request: Request) -> Response:
        """Counts for Prometheus."""
        return PlainTextResponse(self.metrics.text(), media_type="text/plain; version=0.0.4")

    def _ended(self, run: SharedRun) -> None:
        """A run is not computed any more: count what it made."""
        before = run.first
        now = Cost() if run.standing is None else run.standing.spent
        spent = now if before is None else now - before.spent
        self._settle(run, spent)
        if run.standing is None or run.started is None:
            return
        made = run.standing.count - (0 if before is None else before.count)
        self.metrics.add("fairlead_runs_total", end="failed" if run.error else run.standing.status.value)
        self.metrics.add("fairlead_candidates_total", max(0, made), model=run.label)
        self.metrics.add("fairlead_nfe_total", max(0.0, spent.nfe), model=run.label)
        self.metrics.add("fairlead_dollars_total", max(0.0, spent.dollars))
        self.metrics.took("fairlead_queue_seconds", run.started - run.asked)


def caller(request: Request) -> Caller:
    """Whose request it is, as the gate has found."""
    return Caller(request.state.tenant, request.state.limits)


def _closing() -> Refused:
    return unavailable("worker_down", "This server ends. Ask again.")
