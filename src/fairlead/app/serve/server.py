"""The server of `fairlead serve`: its routes, its start and its end. It holds no model and imports no torch."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from fairlead.app.serve import scores
from fairlead.app.serve.allowed import Allowed
from fairlead.app.serve.budgets import LIMITS
from fairlead.app.serve.errors import HANDLERS, Refused, json_response, unavailable
from fairlead.app.serve.gate import Gate
from fairlead.app.serve.generate import Generator
from fairlead.app.serve.keys import HOME, KeyFile
from fairlead.app.serve.log import Log
from fairlead.app.serve.metrics import Metrics
from fairlead.app.serve.models import Served
from fairlead.app.serve.quotas import Quotas, Reservation
from fairlead.app.serve.run_routes import RunRoutes
from fairlead.app.serve.runs import LINGER, Runs, SharedRun
from fairlead.app.web.body import read_json
from fairlead.core.cost import Cost
from fairlead.core.errors import FairleadError

DISCARDED, DISCARD_SECONDS = 1 << 26, 5.0
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
        self.metrics.read |= {
            "fairlead_queue_length": lambda: len(self.runs.turns),
            "fairlead_streams_open": lambda: self.generator.streams,
            "fairlead_worker_up": lambda: self.runs.supervisor.is_up,
            "fairlead_worker_restarts_total": lambda: max(0, self.runs.supervisor.starts - 1),
        }

    def app(self) -> ASGIApp:
        """The application with its checks."""
        post = ["POST"]
        routes = [
            Route("/v1/images/generations", self.generations, methods=post),
            Route("/v1/images/edits", self.no_edits, methods=post),
            Route("/v1/images/variations", self.no_edits, methods=post),
            Route("/v1/score", self.score, methods=post),
            Route("/v1/price", self.price, methods=post),
            Route("/v1/models", self.models),
            Route("/v1/models/{name:path}", self.model),
            *RunRoutes(self.runs, self.generator, self._count).routes(),
            Route("/healthz", self.health),
            Route("/readyz", self.ready),
            Route("/metrics", self.measured),
        ]
        inner = Starlette(routes=routes, exception_handlers=HANDLERS, lifespan=self._lifespan)
        return Gate(
            inner,
            keys=self.setup.keys,
            hosts=self.setup.hosts,
            open_to_others=self.setup.is_open,
            metrics=self.metrics,
            log=self.log,
        )

    @contextlib.asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        self._loop = asyncio.get_running_loop()
        follower = asyncio.create_task(self.runs.supervisor.run())
        warming = asyncio.create_task(self._warm())
        try:
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
        if self.runs.closing:
            raise unavailable("worker_down", f"This server ends. Ask {request.url.path!r} again.")
        tenant = request.state.tenant
        self._count(request)
        order, options, budget, _ = await self.generator.order(await read_json(request), tenant, request.headers)
        self._check_runs(request, order.run)
        request.state.run = order.run
        request.state.prompt = options["prompt"]
        trust = order.asked.uses_alias(self.setup.allowed.aliases)
        run, listener = self.runs.join(tenant, order.run, options, budget, trust)
        run.label = order.asked.served.name
        if run.is_done_for(budget):
            self.metrics.add("fairlead_run_cache_hits_total")
        if not order.asked.stream:
            return await self.generator.whole(request, order, run, listener)
        return self.generator.stream(order, run, listener)

    # quotas

    def _count(self, request: Request) -> None:
        """Count a request of a key."""
        if self.quotas is not None:
            self.quotas.check_request(request.state.tenant, request.state.limits)

    def _check_runs(self, request: Request, id: str) -> None:
        """Refuse another run of a key that has too many; joining one costs nothing."""
        tenant = request.state.tenant
        if self.quotas is None or self.runs.find(tenant, id) is not None:
            return
        mine = [run for run in self.runs.active() if run.tenant == tenant]
        waiting = sum(run.started is None for run in mine)
        self.quotas.check_runs(request.state.limits, len(mine), waiting)

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
        """Pictures as input. The body is thrown away as it comes, up to `DISCARDED` bytes: a connection that is closed
        while a client still sends loses the answer.
        """
        seen = 0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DISCARD_SECONDS):
                async for part in request.stream():
                    seen += len(part)
                    if seen > DISCARDED:
                        break
        message = f"{request.url.path!r} is not offered: the served models make pictures from text alone."
        raise Refused(404, "edits_unsupported", message, headers={"connection": "close"})

    async def price(self, request: Request) -> Response:
        """What a request for pictures would spend; nothing is computed."""
        self._count(request)
        order, _, budget, costs = await self.generator.order(
            await read_json(request), request.state.tenant, request.headers
        )
        pictures = costs.pictures(budget["nfe"])
        each = {"nfe": costs.each, "dollars": costs.dollars}
        return json_response({"run": order.run, "budget": budget, "pictures": pictures, "each": each})

    async def score(self, request: Request) -> Response:
        """Numbers for pictures that exist."""
        self._count(request)
        found, count = await scores.answer(request, self.setup.allowed, self.runs.supervisor)
        self.metrics.add("fairlead_scores_total", count, reward=scores.label(found["reward"], self.setup.allowed))
        return json_response(found)

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
