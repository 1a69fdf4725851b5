"""Routes for choosing what to keep: what each weight of the reward would keep, and the pictures as a zip. No torch."""

from __future__ import annotations

import asyncio
import io
import json
import zipfile
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from fairlead.app.keep import strengths
from fairlead.app.studio.library import Library, Missing
from fairlead.app.words import command, shown
from fairlead.core.errors import FairleadError
from fairlead.run import marks
from fairlead.run.follow import as_number
from fairlead.run.records import Candidate
from fairlead.run.store import Store
from fairlead.run.view import View

MOST = 200
"""Pictures in a zip."""
Work = Callable[..., Awaitable[dict[str, Any]]]


class Keeping:
    """The routes over one runs folder; `work` asks the process that computes."""

    def __init__(self, library: Library, work: Work) -> None:
        self._library = library
        self._work = work

    def routes(self) -> list[Route]:
        """All of them."""
        return [Route("/api/runs/{id}/keep", self.front), Route("/api/runs/{id}/kept.zip", self.download)]

    async def front(self, request: Request) -> Response:
        """What each weight would keep of a run, from the most different to the best."""
        folder = await asyncio.to_thread(self._library.recorded, request.path_params["id"])
        words = request.query_params
        k = words.get("k", "6")
        if not k.isdecimal() or not 1 <= int(k) <= MOST:
            raise FairleadError(f"The count is {k!r:.20}: must be in [1, {MOST}].")
        message: dict[str, Any] = {"do": "front", "folder": folder.name, "k": int(k)}
        message["floor"] = _level(words.get("floor") or "median")
        flags = [f"--{name}" for name in ("starred", "judged") if words.get(name) == "1"]
        if "--starred" in flags:
            message["among"] = await asyncio.to_thread(_starred, folder)
        if "--judged" in flags:
            message["quality"] = await asyncio.to_thread(strengths, folder)
        found = await self._work("The choice was not computed", **message)
        if "error" in found:
            raise FairleadError(found["error"])
        start = command("keep", shown(folder), k)
        ending = [*(["--floor", str(message["floor"])] if message["floor"] != "median" else []), *flags]
        lines = [" ".join([start, "--weight", f"{point['weight']:g}", *ending]) for point in found["points"]]
        view = await asyncio.to_thread(View.read, folder)
        images = {c.index: Path(c.image).stem for c in view.candidates}
        rewards = {c.index: as_number(c.reward) for c in view.candidates}
        for point, line in zip(found["points"], lines, strict=True):
            point["command"] = line
            point["kept"] = [{"candidate": i, "image": images[i], "reward": rewards[i]} for i in point["kept"]]
        return JSONResponse({**found, "prompt": view.spec.prompt, "name": folder.name})

    def download(self, request: Request) -> Response:
        """Some candidates with their recipes."""
        folder = self._library.recorded(request.path_params["id"])
        words = request.query_params.get("candidates", "").split(",")
        if not all(word.isdecimal() for word in words) or len(words) > MOST:
            raise FairleadError(f"The candidates are {','.join(words)!r:.60}: must be up to {MOST} numbers like 3,7.")
        data = zipped(folder, [int(word) for word in words])
        headers = {"content-disposition": 'attachment; filename="kept.zip"', "cache-control": "no-store"}
        return Response(data, media_type="application/zip", headers=headers)


def _level(floor: str) -> float | str:
    try:
        return float(floor)
    except ValueError:
        return floor


def _starred(folder: Path) -> list[int]:
    if found := marks.starred(folder):
        return found
    raise FairleadError(f"{folder.name} has no starred picture. Press s on some, or choose from all.")


def zipped(folder: Path, indices: Sequence[int]) -> bytes:
    """A zip of pictures and of their recipes as JSON, in this order."""
    store = Store.open(folder, verify=False)
    try:
        by_index = {c.index: c for c in store.candidates()}
        if missing := [index for index in indices if index not in by_index]:
            raise Missing(f"{folder.name} has no candidate {missing[0]}. Reload the page.")
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
            for place, index in enumerate(indices, 1):
                data = store.image(Path(by_index[index].image).stem)
                name = f"{place:02d}-candidate-{index}"
                archive.writestr(f"{name}.png", data)
                archive.writestr(f"{name}.json", json.dumps(_recipe(folder, data, by_index[index]), indent=1))
        return buffer.getvalue()
    finally:
        store.close()


def _recipe(folder: Path, data: bytes, candidate: Candidate) -> dict[str, Any]:
    """How the picture was made, as it stands in the picture, and the command that makes it again."""
    from PIL import Image

    with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
        written = json.loads(image.info.get("fairlead", "{}"))
    again = command("replay", shown(folder), str(candidate.index))
    return {"candidate": candidate.index, "reward": candidate.reward, "replay": again, "recipe": written}
