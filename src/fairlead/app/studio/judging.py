"""Routes for people who judge: pairs of finished pictures, and the questions of runs that wait. Imports no torch."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from fairlead.app.preferences import as_csv, as_jsonl, preference_rows, ranking_rows
from fairlead.app.studio.library import Library
from fairlead.app.web.body import read_json
from fairlead.app.workers.jobs import Jobs
from fairlead.app.workers.waiting import resume_if_answered
from fairlead.core.errors import FairleadError, StoreError, unknown
from fairlead.run import judgements, marks
from fairlead.run.follow import as_number
from fairlead.run.judged import ENTRANTS, Judged, entrants
from fairlead.run.judgements import PAIR, PICK
from fairlead.run.question_store import QuestionStore
from fairlead.run.view import View

AMONG = ("all", "starred", "not rejected")
SHOWN = 4
"""Pictures of a pick."""


@dataclass(frozen=True)
class Table:
    """At which a person sits down: who they are, and what they want to be shown."""

    who: str
    kind: str
    many: int | None
    """How many pictures take part; None for all."""
    among: str

    @staticmethod
    def read(words: Any) -> Table:
        """From a query or a body."""
        kind = str(words.get("kind") or PAIR)
        among = str(words.get("among") or AMONG[0])
        many = str(words.get("of") or ENTRANTS)
        if kind not in (PAIR, PICK):
            raise unknown("kind of judgement", kind, (PAIR, PICK))
        if among not in AMONG:
            raise unknown("choice of pictures", among, AMONG)
        if many != "all" and not (many.isdecimal() and 2 <= int(many) <= 10_000):
            raise FairleadError(f"The number of pictures is {many!r:.20}: must be 2 or more, or all.")
        return Table(str(words.get("who") or ""), kind, None if many == "all" else int(many), among)


class Judging:
    """The routes over one runs folder."""

    def __init__(self, library: Library, jobs: Jobs, wake: Callable[[], None]) -> None:
        self._library = library
        self._jobs = jobs
        self._wake = wake

    def routes(self) -> list[Route]:
        """All of them."""
        return [
            Route("/api/runs/{id}/judge", self.table),
            Route("/api/runs/{id}/judge", self.judge, methods=["POST"]),
            Route("/api/runs/{id}/judge/undo", self.undo, methods=["POST"]),
            Route("/api/runs/{id}/judge/ranking.csv", self.ranking),
            Route("/api/runs/{id}/judge/preferences.jsonl", self.preferences),
            Route("/api/runs/{id}/questions/{name}", self.answer, methods=["POST"]),
        ]

    def table(self, request: Request) -> Response:
        """What to show a person now, the ranking so far, and the questions of a run that waits."""
        folder = self._library.recorded(request.path_params["id"])
        return JSONResponse(state(folder, Table.read(request.query_params)), headers={"cache-control": "no-store"})

    async def judge(self, request: Request) -> Response:
        """Record one judgement; what to show next."""
        words = await read_json(request)
        return await self._change(request, words, _add)

    async def undo(self, request: Request) -> Response:
        """Take this person's last judgement back; it is shown again."""
        words = await read_json(request)
        return await self._change(request, words, _undo)

    async def _change(self, request: Request, words: dict[str, Any], do: Callable[..., None]) -> Response:
        table = Table.read(words)
        turn = words.get("turn")
        if not isinstance(turn, int) or isinstance(turn, bool):
            raise FairleadError(f"The turn is {turn!r:.20}: must be the number that came with the pictures.")
        folder = await asyncio.to_thread(self._library.recorded, request.path_params["id"])
        await asyncio.to_thread(do, folder, table, turn, words)
        return JSONResponse(await asyncio.to_thread(state, folder, table), headers={"cache-control": "no-store"})

    async def answer(self, request: Request) -> Response:
        """Answer a question of a run that waits. The first answer holds."""
        words = await read_json(request)
        answer = words.get("answer")
        if not isinstance(answer, str) or not answer.strip():
            raise FairleadError(f"The answer is {answer!r:.40}: must be a text, for example 'none'.")
        folder = await asyncio.to_thread(self._library.recorded, request.path_params["id"])
        await asyncio.to_thread(_answer, folder, request.path_params["name"], answer.strip())
        if await asyncio.to_thread(resume_if_answered, self._jobs, folder):
            await asyncio.to_thread(self._wake)
        return JSONResponse({"answered": answer.strip()})

    def ranking(self, request: Request) -> Response:
        """The ranking as a file; `who` for one person's."""
        view, judged = self._judged(request)
        text = as_csv(ranking_rows(view, judged, self._library.root))
        return attached(text, "text/csv", f"{view.folder.name}-ranking.csv")

    def preferences(self, request: Request) -> Response:
        """Every decided comparison as a file; pictures are named as seen from the runs folder."""
        view, judged = self._judged(request)
        text = as_jsonl(preference_rows(view, judged, self._library.root))
        return attached(text, "application/jsonl", f"{view.folder.name}-preferences.jsonl")

    def _judged(self, request: Request) -> tuple[View, Judged]:
        folder = self._library.recorded(request.path_params["id"])
        return View.read(folder), Judged.of(folder, request.query_params.get("who"))


def attached(text: str, kind: str, name: str) -> Response:
    """A text that the browser saves as a file."""
    safe = "".join(c for c in name if c.isascii() and (c.isalnum() or c in "-._"))
    headers = {"content-disposition": f'attachment; filename="{safe}"', "cache-control": "no-store"}
    return Response(text, media_type=kind, headers=headers)


def _add(folder: Path, table: Table, turn: int, words: dict[str, Any]) -> None:
    shown = words.get("candidates")
    if not isinstance(shown, list) or not all(isinstance(i, int) and not isinstance(i, bool) for i in shown):
        raise FairleadError(f"The candidates are {shown!r:.60}: must be a list of their numbers.")
    judgements.add(folder, table.kind, shown, str(words.get("answer")), table.who, turn)


def _undo(folder: Path, table: Table, turn: int, words: dict[str, Any]) -> None:
    if judgements.undo(folder, table.who, turn) is None:
        raise FairleadError(f"There is nothing to take back in {folder.name}.")


def _answer(folder: Path, name: str, answer: str) -> None:
    before = QuestionStore(folder).answer_if_open(name, answer)
    if before is not None:
        raise StoreError(f"This question has an answer already, {before!r}. The first answer holds.")


def players(view: View, table: Table) -> list[int]:
    """The candidates that are compared."""
    own = {index: set(kinds) for index, kinds in marks.present(marks.of(view.folder)).items()}
    finished = [c.index for c in view.finished]
    if table.among == "starred":
        among = {index for index in finished if "star" in own.get(index, ())}
    else:
        among = {index for index in finished if "reject" not in own.get(index, ())}
    baseline = None if view.baseline is None else view.baseline.index
    return entrants(finished, baseline, table.many, None if table.among == "all" else among)


def state(folder: Path, table: Table) -> dict[str, Any]:
    """Everything that the page shows."""
    view = View.read(folder)
    every = judgements.of(folder)
    judged = Judged(every)
    turn = judgements.turn_of(every, table.who)
    playing = players(view, table)
    shown: tuple[int, ...] | None
    if table.kind == PICK:
        shown = judged.next_pick(playing, SHOWN, table.who, turn, str(view.spec.seed)) if len(playing) > 1 else None
    else:
        shown = judged.next_pair(playing, table.who, turn, str(view.spec.seed))
    images = {c.index: Path(c.image).stem for c in [*([view.baseline] if view.baseline else []), *view.candidates]}
    return {
        "prompt": view.spec.prompt,
        "name": folder.name,
        "kind": table.kind,
        "turn": turn,
        "pictures": len(playing),
        "shown": None if shown is None else [{"candidate": index, "image": images[index]} for index in shown],
        "ranking": [{**place.as_dict(), "image": images[place.candidate]} for place in judged.ranking],
        "judgements": len(judged.judgements),
        "judges": [{"who": name, "judgements": many} for name, many in judged.judges.items()],
        "agreement": {"alpha": as_number(judged.agreement.alpha), "pairs": judged.agreement.pairs},
        "questions": questions(folder),
    }


def questions(folder: Path) -> list[dict[str, Any]]:
    """Those that wait for an answer."""
    found = QuestionStore(folder).pending()
    return [{"name": q.name, "kind": q.kind, "text": q.text, "images": list(q.pictures)} for q in found]
