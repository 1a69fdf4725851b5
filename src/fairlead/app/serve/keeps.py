"""POST /v1/keep and /v1/runs/{id}/keep: which pictures are good and different. No torch: the worker compares them."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fairlead.app.serve import fields, images, scores
from fairlead.app.serve.errors import Refused, invalid, unavailable, without_places
from fairlead.app.serve.runs import Runs
from fairlead.app.workers.supervisor import Supervisor
from fairlead.core.errors import FairleadError
from fairlead.run.store import DATABASE, Store

LIKENESS = ("clip", "pixels")
CHOICE = ("n", "weight", "likeness")
"""What both routes read."""


async def of_pictures(body: Mapping[str, Any], supervisor: Supervisor) -> dict[str, Any]:
    """Positions of the chosen pictures in the request, the most wanted first."""
    fields.known_keys(dict(body), (*CHOICE, "images", "scores"), "keep")
    sent = scores.pictures_of(body)
    worth = _scores(body.get("scores"), len(sent))
    n, keep = _choice(body, len(sent))
    found = await _worked(supervisor, "images", do="keep", images=sent, scores=worth, n=n, keep=keep)
    return {"indices": found["indices"], "likeness": found["likeness"], "weight": keep["weight"]}


async def of_run(body: Mapping[str, Any], folder: Path, runs: Runs) -> dict[str, Any]:
    """The chosen candidates of a run, the most wanted first."""
    fields.known_keys(dict(body), CHOICE, "keep")
    n, keep = _choice(body, scores.MOST)
    if not (folder / DATABASE).is_file():
        raise images.nothing_yet(folder.name)
    place = str(folder.relative_to(runs.root))
    found = await _worked(runs.supervisor, "n", do="choose", folder=place, n=n, keep=keep)
    chosen = await asyncio.to_thread(_candidates, folder, found["indices"])
    return {"run": folder.name, "candidates": chosen, "weight": keep["weight"]}


def _candidates(folder: Path, indices: list[int]) -> list[dict[str, Any]]:
    store = Store.open(folder, verify=False)
    try:
        return [images.described(store.get(index)) for index in indices]
    finally:
        store.close()


async def _worked(supervisor: Supervisor, param: str, **message: Any) -> dict[str, Any]:
    try:
        found = await supervisor.work("Nothing was chosen", **message)
    except FairleadError as error:
        raise unavailable("worker_down", without_places(str(error))) from None
    if "error" in found:
        raise scores.refused(found, param)
    return found


def _choice(body: Mapping[str, Any], most: int) -> tuple[int, dict[str, Any]]:
    """How many are kept, and by which rule."""
    n = fields.whole("n", body.get("n"), 1, most, min(4, most))
    keep: dict[str, Any] = {"weight": fields.number("weight", body.get("weight"), 0, 1e6, 0.5)}
    if body.get("likeness") is not None:
        keep["likeness"] = fields.word("likeness", body["likeness"], LIKENESS, "clip")
    return n, keep


def _scores(sent: Any, count: int) -> list[float | None] | None:
    """A number or null for each picture; None where the request has none."""
    if sent is None:
        return None
    if not isinstance(sent, list) or len(sent) != count or not all(_is_score(one) for one in sent):
        raise invalid("scores", f"scores is {sent!r:.60}: must be a number or null for each of {count} pictures.")
    if not any(one is not None for one in sent):
        raise Refused(422, "no_scores", f"scores is {sent!r:.60}: must have a number. Or leave it out.", "scores")
    return sent


def _is_score(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float | None):
        return False
    return value is None or (abs(value) < 1e300 and math.isfinite(value))
