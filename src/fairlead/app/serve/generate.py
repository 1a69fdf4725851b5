"""POST /v1/images/generations: a request becomes a run that it may share, and waits for it."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import secrets
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from typing import Any

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from fairlead.app.serve import asked as asking
from fairlead.app.serve import delivered, images
from fairlead.app.serve.allowed import Allowed
from fairlead.app.serve.budgets import Costs, budget_of
from fairlead.app.serve.errors import Refused, invalid, json_response, of_sentence, unavailable, without_places
from fairlead.app.serve.images import Order
from fairlead.app.serve.models import Served
from fairlead.app.serve.partial import Partials
from fairlead.app.serve.runs import Listener, Runs, SharedRun
from fairlead.app.workers import form
from fairlead.core.errors import FairleadError
from fairlead.run.follow import as_number
from fairlead.run.spec import Spec

PATIENCE = 600.0
"""Seconds that a client waits where it does not say so."""
SHARE = 0.9
"""Of its patience that a request may take."""
BEAT = 15.0
"""Seconds of silence in a stream after which a comment is sent."""
SHUTTING_DOWN = "shutting down"
OUT_OF_TIME = "seconds"


class Generator:
    """What one server needs to answer requests for pictures."""

    def __init__(
        self,
        runs: Runs,
        served: Mapping[str, Served],
        allowed: Allowed,
        most: Mapping[str, float],
        fresh: bool,
    ) -> None:
        self.runs = runs
        self.served = served
        self.allowed = allowed
        self.most = most
        self._fresh = fresh
        self.streams = 0
        """Streams that are being sent."""
        self._start = secrets.token_hex(8)
        self._counters: dict[str, int] = {}
        self._costs: dict[str, Costs] = {}
        self._choices: dict[str, list[int]] = {}

    # from a body to an order

    async def order(
        self, body: dict[str, Any], tenant: str, headers: Mapping[str, str]
    ) -> tuple[Order, dict[str, Any], dict[str, float], Costs]:
        """The request with its run, the options of the run, its budget, and what its pictures cost."""
        asked = asking.read(body, self.served, self.allowed)
        seed = self._seed(asked, body, tenant, headers)
        options = {**asked.words, "seed": seed}
        spec, warnings = await asyncio.to_thread(self._checked, options)
        costs = await self._cost(options)
        budget = budget_of(asked, costs, self.most)
        notes = (*asked.warnings, *map(without_places, [*warnings, *costs.warnings]))
        return Order(asked, spec.id(), seed, notes), options, budget, costs

    def _checked(self, options: dict[str, Any]) -> tuple[Spec, list[str]]:
        """The Spec as asked, whose id names the run, and its warnings. Refuses what the operator does not permit."""
        from fairlead.run import models

        try:
            spec = models.spec_of(form.read_options(options))
            warnings = models.warnings(replace(spec, steering=(), interventions=()))
        except FairleadError as error:
            raise of_sentence(error) from None
        except (ValueError, TypeError, OverflowError, RecursionError) as error:
            raise invalid("fairlead", f"The settings of the run cannot be read ({error!s:.80}).") from None
        self.allowed.check_spec(spec)
        return spec, warnings

    async def _cost(self, options: Mapping[str, Any]) -> Costs:
        """What pictures of these options cost; counted once for all prompts and seeds."""
        same = {name: value for name, value in options.items() if name not in ("prompt", "seed")}
        key = json.dumps(same, sort_keys=True)
        found = self._costs.get(key)
        if found is None:
            try:
                answer = await self.runs.supervisor.work(
                    "The costs were not counted", do="costs", options=dict(options)
                )
            except FairleadError as error:
                raise unavailable("worker_down", without_places(str(error))) from None
            if "error" in answer:
                raise _of_answer(answer)
            found = Costs.read(answer)
            if len(self._costs) > 1000:
                self._costs.clear()
            if found.dollars == 0:  # a price in dollars may depend on the prompt
                self._costs[key] = found
        return found

    def _seed(self, asked: asking.Asked, body: dict[str, Any], tenant: str, headers: Mapping[str, str]) -> int:
        key = headers.get("idempotency-key")
        fresh = None
        if asked.seed == "fresh" or (self._fresh and key is None):
            fresh = self._fresh_text(tenant, body, headers.get("x-stainless-retry-count", "0"))
        return asking.numbered_seed(asked, tenant, key, fresh)

    def _fresh_text(self, tenant: str, body: dict[str, Any], retries: str) -> str:
        """A text that is new with every request, and the same for the retries of one."""
        digest = hashlib.sha256(json.dumps([tenant, body], sort_keys=True).encode()).hexdigest()
        if len(self._counters) > 10_000:
            self._counters.clear()
        count = self._counters.get(digest, 0) + (retries in ("", "0"))
        self._counters[digest] = count
        return f"{self._start}-{digest}-{count}"

    # waiting

    async def wait(
        self, run: SharedRun, listener: Listener, until: float, gone: asyncio.Future[Any] | None = None
    ) -> str:
        """Why the waiting ended: `done`, `seconds`, `shutting down` or `gone`."""
        while not run.is_done_for(listener.budget):
            if self.runs.closing:
                return SHUTTING_DOWN
            left = until - time.monotonic()
            if left <= 0:
                return OUT_OF_TIME
            if gone is not None and gone.done():
                return "gone"
            listener.changed.clear()
            waiter = asyncio.ensure_future(listener.changed.wait())
            try:
                await asyncio.wait(
                    {waiter} if gone is None else {waiter, gone}, timeout=left, return_when=asyncio.FIRST_COMPLETED
                )
            finally:
                waiter.cancel()
        return "done"

    async def answered(self, order: Order, run: SharedRun, listener: Listener, why: str) -> dict[str, Any]:
        """The answer from the record, whatever it holds by now."""
        folder = self.runs.root / run.folder
        standing = run.standing
        if run.error is not None and why == "done":
            raise run.error
        stopped = "" if why == "done" else why
        if run.has_expired:
            stopped = OUT_OF_TIME
        elif standing is not None and why == "done":
            stopped = standing.ended_by(listener.budget)
        if standing is None:
            raise self._too_slow(order, why)
        if standing.best is None:
            raise images.nothing_yet(order.run)
        indices = [standing.best.index] if order.asked.n == 1 else await self._chosen(order, run)
        found = await asyncio.to_thread(images.answer, order, folder, indices, stopped)
        if len(indices) < order.asked.n:
            found["fairlead"]["warnings"].append(f"Only {len(indices)} of {order.asked.n} pictures have a reward.")
        return found

    def _too_slow(self, order: Order, why: str) -> Refused:
        if why == OUT_OF_TIME:
            return Refused(400, "use_stream", f"Run {order.run} made no picture in time. Use stream=true.", "stream")
        return unavailable("worker_down", f"Run {order.run} has no picture yet ({why}). Ask again.")

    async def _chosen(self, order: Order, run: SharedRun) -> list[int]:
        """n pictures that are good and different."""
        n = min(order.asked.n, await asyncio.to_thread(images.usable, self.runs.root / run.folder))
        assert run.standing is not None
        key = json.dumps([run.folder, n, dict(order.asked.keep), run.standing.count, run.standing.spent.as_dict()])
        if key not in self._choices:
            answer = await self.runs.supervisor.work(
                "No pictures were chosen", do="choose", folder=run.folder, n=n, keep=dict(order.asked.keep)
            )
            if "error" in answer:
                raise _of_answer(answer)
            if len(self._choices) > 1000:
                self._choices.clear()
            self._choices[key] = answer["indices"]
        return self._choices[key]

    # the two ways to answer

    async def whole(self, request: Request, order: Order, run: SharedRun, listener: Listener) -> Response:
        """One JSON answer, before the client's patience ends."""
        until = order.asked.arrived + SHARE * patience(request.headers)
        gone = asyncio.ensure_future(request.receive())
        why = "gone"
        try:
            why = await self.wait(run, listener, until, gone)
            if why == "gone":
                return Response(status_code=499)
            return json_response(await self.answered(order, run, listener, why))
        finally:
            gone.cancel()
            self.runs.leave(run, listener, now=why == OUT_OF_TIME)

    def stream(self, order: Order, run: SharedRun, listener: Listener) -> Response:
        """Server-sent events: partial pictures, then one completed event for each picture."""
        headers = {"cache-control": "no-store, no-transform", "x-accel-buffering": "no"}
        events = self._events(order, run, listener)
        return StreamingResponse(events, media_type="text/event-stream", headers=headers)

    async def _events(self, order: Order, run: SharedRun, listener: Listener) -> AsyncIterator[str]:
        self.streams += 1
        try:
            yield ": ok\n\n"
            async for text in self._partial_events(order, run, listener):
                yield text
            why = SHUTTING_DOWN if not run.is_done_for(listener.budget) else "done"
            for value in completed(await self.answered(order, run, listener, why)):
                yield event(value)
        except Refused as error:
            yield event({"type": "error", "error": error.value})
        except FairleadError as error:
            yield event({"type": "error", "error": of_sentence(error).value})
        finally:
            self.streams -= 1
            self.runs.leave(run, listener)

    async def _partial_events(self, order: Order, run: SharedRun, listener: Listener) -> AsyncIterator[str]:
        """What is sent until the run is done or the server ends."""
        partials = Partials(order.asked.partial_images, listener.budget)
        while not run.is_done_for(listener.budget) and not self.runs.closing:
            listener.changed.clear()
            now = run.standing
            if (best := partials.next(now)) is not None:
                png = run.record.picture(best)
                data, size = await asyncio.to_thread(delivered.encode, png, order.asked.format, order.asked.compression)
                yield event(partial(order, data, size, partials.shown - 1))
            if order.asked.events and now is not None:
                told: dict[str, Any] = {"candidates": now.count, "share": now.share(listener.budget)}
                told["reward"] = None if now.best is None else as_number(now.best.reward)
                yield event({"type": "fairlead.progress", **told})
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(BEAT):
                    await listener.changed.wait()
                continue
            yield ": beat\n\n"


def patience(headers: Mapping[str, str]) -> float:
    """Seconds that the client waits, as it says."""
    try:
        found = float(headers.get("x-stainless-read-timeout", ""))
    except ValueError:
        return PATIENCE
    return found if 0 < found < 86_400 else PATIENCE


def event(value: Mapping[str, Any]) -> str:
    """One server-sent event."""
    return f"event: {value['type']}\ndata: {json.dumps(value, allow_nan=False)}\n\n"


def partial(order: Order, data: bytes, size: tuple[int, int], index: int) -> dict[str, Any]:
    """The event of a partial picture."""
    return {
        "type": "image_generation.partial_image",
        "b64_json": delivered.as_text(data),
        "background": "opaque",
        "created_at": int(time.time()),
        "output_format": order.asked.format,
        "partial_image_index": index,
        "quality": order.asked.quality,
        "size": f"{size[0]}x{size[1]}",
    }


def completed(answer: Mapping[str, Any]) -> list[dict[str, Any]]:
    """An event for each picture of an answer, in the order of the choice."""
    shared = {name: answer[name] for name in ("background", "output_format", "quality", "size", "usage")}
    if "safety_identifier" in answer:
        shared["safety_identifier"] = answer["safety_identifier"]
    return [
        {
            "type": "image_generation.completed",
            "created_at": answer["created"],
            "b64_json": one["b64_json"],
            **shared,
            "fairlead": {**answer["fairlead"], **one["fairlead"]},
        }
        for one in answer["data"]
    ]


def _of_answer(answer: Mapping[str, Any]) -> Refused:
    """The refusal of what the worker could not answer."""
    if answer.get("class") == "bug":
        return Refused(500, "internal", f"The server could not count this ({len(answer['error'])}).")
    return Refused(400, "invalid_value", without_places(answer["error"]))
