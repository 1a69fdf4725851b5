"""What the tools do: the functions of `fairlead serve`, with its checks, its queue and its limits. No torch.

Every request goes through the same allowlist as one over HTTP. An assistant's arguments are not trusted more than
those of any other client.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fairlead.app.mcp import previews
from fairlead.app.serve import fields, keeps, scores
from fairlead.app.serve.asked import QUALITIES
from fairlead.app.serve.errors import Refused, invalid
from fairlead.app.serve.generate import BEAT, SHUTTING_DOWN
from fairlead.app.serve.keys import Caller
from fairlead.app.serve.run_view import picture
from fairlead.app.serve.runs import Listener, SharedRun
from fairlead.app.serve.server import Application
from fairlead.run.store import DATABASE, Store

Tell = Callable[[float, float, str], Awaitable[None]]
"""Called with evaluations spent, evaluations expected and a sentence."""


@dataclass(frozen=True)
class Found:
    """The answer of a tool."""

    text: str
    values: Mapping[str, Any]
    run: str = ""
    candidates: Sequence[Mapping[str, Any]] = ()
    """Those that are shown, the most wanted first."""
    previews: Sequence[bytes] = field(default_factory=list)
    """WebP pictures of the first candidates."""


class Tools:
    """The four tools over one server."""

    def __init__(self, application: Application) -> None:
        self._server = application

    async def price(self, asker: Caller, body: dict[str, Any]) -> Found:
        """What a search would spend."""
        self._server.count(asker)
        found = await self._server.priced(body, asker, {})
        each = found["each"]["nfe"]
        text = f"{found['pictures']} pictures of {each:g} denoiser evaluations each, nfe={found['budget']['nfe']:g}."
        return Found(text, found)

    async def search(self, asker: Caller, body: dict[str, Any], tell: Tell) -> Found:
        """Search, and show the winners. A caller that leaves stops the run after its present batch."""
        self._server.count(asker)
        order, run, listener = await self._server.join(body, asker, {})
        is_answered = False
        try:
            why = await self._watched(run, listener, tell)
            answer = await self._server.generator.answered(order, run, listener, why)
            is_answered = True
        finally:
            self._server.runs.leave(run, listener, now=not is_answered)
        values = answer["fairlead"]
        shown = [one["fairlead"] for one in answer["data"]]
        return await self._with_pictures(asker, _sentence(values), {**values, "pictures": shown}, shown)

    async def _watched(self, run: SharedRun, listener: Listener, tell: Tell) -> str:
        """Wait for a run and tell how far it is; why the waiting ended."""
        last = -1.0
        while True:
            listener.changed.clear()
            now = run.standing
            if now is not None and now.spent.nfe > last:
                last = now.spent.nfe
                best = "no reward yet" if now.best is None else f"best {now.best.reward:.4g}"
                await tell(last, max(last, listener.budget["nfe"]), f"{now.count} candidates, {best}")
            if run.is_done_for(listener.budget):
                return "done"
            if self._server.runs.closing:
                return SHUTTING_DOWN
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(BEAT):
                    await listener.changed.wait()

    async def score(
        self, asker: Caller, body: dict[str, Any], run: str | None, candidates: Sequence[int] | None
    ) -> Found:
        """Numbers for pictures that are sent, or for candidates of a run."""
        self._server.count(asker)
        if (run is None) == (body.get("images") is None):
            raise invalid("run", f"run is {run!r:.40}: name either a run or images.")
        if run is not None:
            prompt, images = await asyncio.to_thread(_of_run, self._server.folder_of(asker.tenant, run), candidates)
            body = {"prompts": prompt, **body, "images": images}
        found = await self._server.scored(body)
        numbers = ", ".join("none" if one is None else f"{one:.4g}" for one in found["scores"])
        return Found(f"{found['reward']}: {numbers}", found)

    async def keep(self, asker: Caller, run: str, body: dict[str, Any]) -> Found:
        """Candidates of a run that are good and different, with previews."""
        self._server.count(asker)
        values = await keeps.of_run(body, self._server.folder_of(asker.tenant, run), self._server.runs)
        chosen = values["candidates"]
        listed = ", ".join(str(one["candidate"]) for one in chosen)
        return await self._with_pictures(asker, f"Candidates {listed} are good and different.", values, chosen)

    async def picture(self, asker: Caller, run: str, digest: str) -> bytes:
        """A picture of a run as WebP."""
        png = await asyncio.to_thread(picture, self._server.folder_of(asker.tenant, run), digest)
        return await asyncio.to_thread(previews.fitted, png, fields.LARGEST, previews.WHOLE)

    async def _with_pictures(
        self, asker: Caller, text: str, values: Mapping[str, Any], shown: Sequence[Mapping[str, Any]]
    ) -> Found:
        folder = self._server.folder_of(asker.tenant, values["run"])
        small = []
        for one in shown[: previews.MOST]:
            png = await asyncio.to_thread(picture, folder, one["image"])
            small.append(await asyncio.to_thread(previews.preview, png))
        return Found(text, values, values["run"], shown, small)


def request(
    prompt: str, n: int, budget: str | None, own: Mapping[str, Any], model: str | None = None
) -> dict[str, Any]:
    """The body that /v1/images/generations takes. `budget` is a quality such as 'high', or limits such as 'nfe=640'."""
    body: dict[str, Any] = {"prompt": prompt, "n": n, "model": model}
    told = {name: value for name, value in own.items() if value is not None}
    if budget in QUALITIES:
        body["quality"] = budget
    elif budget is not None:
        told["budget"] = budget
    return {**body, "fairlead": told}


def _sentence(values: Mapping[str, Any]) -> str:
    """What a search found, in words."""
    reward = values["reward"]
    best = "none" if reward is None else f"{reward:.4g}"
    plain = values["baseline"]
    than = "" if plain is None else f" The plain picture has {plain:.4g}."
    cost = f" It took {values['cost'].get('nfe', 0):g} denoiser evaluations."
    stopped = f" It ended by {values['stopped']}." if values["stopped"] else ""
    return f"The best reward is {best}.{than}{cost}{stopped} Run {values['run']}, seed {values['seed']}."


def _of_run(folder: Path, candidates: Sequence[int] | None) -> tuple[str, list[str]]:
    """The prompt of a run, and its pictures in base64; all of them, or those of some candidates."""
    if not (folder / DATABASE).is_file():
        raise Refused(404, "run_not_found", f"Run {folder.name} has no picture yet.")
    store = Store.open(folder, verify=False)
    try:
        every = {one.index: one for one in store.candidates()}
        wanted = list(every) if candidates is None else list(candidates)
        if unknown := [index for index in wanted if index not in every]:
            raise invalid("candidates", f"Run {folder.name} has no candidate {unknown[0]!r}: it has {len(every)}.")
        if len(wanted) > scores.MOST:
            raise invalid("candidates", f"{len(wanted)} candidates are too many: name at most {scores.MOST}.")
        pngs = [store.image(Path(every[index].image).stem) for index in wanted]
        return store.spec.prompt, [base64.b64encode(png).decode() for png in pngs]
    finally:
        store.close()
