"""Routes for judging pictures of several runs of one prompt, in blind pairs. Imports no torch."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from fairlead.app.preferences import as_csv, as_jsonl, preferences_across, ranking_across
from fairlead.app.studio.judging import attached
from fairlead.app.studio.library import Library, method_words, run_id
from fairlead.app.web.body import read_json
from fairlead.core.errors import FairleadError
from fairlead.run import judged_across
from fairlead.run.follow import as_number
from fairlead.run.judged_across import JudgedAcross

OF = {"1": 1, "4": 4, "16": 16, "all": None}
"""Pictures of each run that take part: its winner, its best few, all."""


class JudgingAcross:
    """The routes over one runs folder."""

    def __init__(self, library: Library) -> None:
        self._library = library

    def routes(self) -> list[Route]:
        """All of them."""
        return [
            Route("/api/across", self.table),
            Route("/api/across", self.judge, methods=["POST"]),
            Route("/api/across/undo", self.undo, methods=["POST"]),
            Route("/api/across/ranking.csv", self.ranking),
            Route("/api/across/preferences.jsonl", self.preferences),
        ]

    def table(self, request: Request) -> Response:
        """What to show a person now, and the ranking over these runs."""
        words = request.query_params
        found = state(self._asked(request), words.get("who", ""), words.get("of", "1"))
        return JSONResponse(found, headers={"cache-control": "no-store"})

    async def judge(self, request: Request) -> Response:
        """Record one judgement; what to show next."""
        return await self._change(await read_json(request), undo=False)

    async def undo(self, request: Request) -> Response:
        """Take this person's last judgement back; it is shown again."""
        return await self._change(await read_json(request), undo=True)

    async def _change(self, words: dict[str, Any], *, undo: bool) -> Response:
        turn = words.get("turn")
        ids = words.get("runs")
        shown = words.get("images", [])
        if not isinstance(turn, int) or isinstance(turn, bool):
            raise FairleadError(f"The turn is {turn!r:.20}: must be the number that came with the pictures.")
        if not isinstance(ids, list) or not isinstance(shown, list):
            raise FairleadError(f"The runs are {ids!r:.60}: runs and images must be lists of texts.")
        folders = await asyncio.to_thread(self._folders, [str(id) for id in ids])
        who = str(words.get("who") or "")
        if undo and not await asyncio.to_thread(judged_across.undo, folders, who, turn):
            raise FairleadError(f"There is nothing to take back for {who or 'the person without a name'}.")
        if not undo:
            images = [str(image) for image in shown]
            await asyncio.to_thread(judged_across.add, folders, images, str(words.get("answer")), who, turn)
        found = await asyncio.to_thread(state, folders, who, str(words.get("of") or "1"))
        return JSONResponse(found, headers={"cache-control": "no-store"})

    def ranking(self, request: Request) -> Response:
        """The ranking over these runs as a file; `who` for one person's."""
        runs = JudgedAcross(self._asked(request))
        text = as_csv(ranking_across(runs, self._library.root, request.query_params.get("who")))
        return attached(text, "text/csv", "ranking-across.csv")

    def preferences(self, request: Request) -> Response:
        """Every decided pair as a file; pictures are named as seen from the runs folder."""
        runs = JudgedAcross(self._asked(request))
        text = as_jsonl(preferences_across(runs, self._library.root, request.query_params.get("who")))
        return attached(text, "application/jsonl", "preferences-across.jsonl")

    def _asked(self, request: Request) -> list[Path]:
        return self._folders(request.query_params.getlist("run"))

    def _folders(self, ids: Sequence[str]) -> list[Path]:
        return [self._library.recorded(id) for id in dict.fromkeys(ids)]


def state(folders: Sequence[Path], who: str, of: str) -> dict[str, Any]:
    """Everything that the page shows."""
    if of not in OF:
        raise FairleadError(f"The number of pictures of each run is {of!r:.20}: must be one of {', '.join(OF)}.")
    runs = JudgedAcross(folders)
    judged = runs.judged()
    playing = runs.entrants(OF[of])
    turn = runs.turn_of(who)
    shown = judged.next_pair(playing, who, turn, "\n".join(sorted(runs.folders)), runs.are_apart)
    return {
        "prompt": runs.prompt,
        "turn": turn,
        "pictures": len(playing),
        "shown": None if shown is None else [_named(runs, number) for number in shown],
        "ranking": [{**place.as_dict(), **_named(runs, place.candidate)} for place in judged.ranking],
        "judgements": len(judged.judgements),
        "judges": [{"who": name, "judgements": many} for name, many in judged.judges.items()],
        "agreement": {"alpha": as_number(judged.agreement.alpha), "pairs": judged.agreement.pairs},
    }


def _named(runs: JudgedAcross, number: int) -> dict[str, Any]:
    """A picture for the page."""
    picture = runs.pictures[number]
    method = method_words(runs.views[picture.run].spec)
    return {
        "run": run_id(picture.run),
        "name": picture.run,
        "method": method,
        "candidate": picture.candidate,
        "image": picture.image,
    }
