"""POST /v1/score: pictures and prompts in, every number out. The JSON is that of the `http` reward, and more."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.requests import Request

from fairlead.app.serve import fields
from fairlead.app.serve.allowed import Allowed
from fairlead.app.serve.errors import Refused, invalid, unavailable, without_places
from fairlead.app.web.body import read_json
from fairlead.app.workers.supervisor import Supervisor
from fairlead.core.errors import FairleadError

BODY = 64 << 20
MOST = 64
"""Pictures of a request."""
STATUS = {"BadImage": (422, "bad_image", "images"), "NoPrompt": (422, "no_prompt", "prompts")}


async def answer(request: Request, allowed: Allowed, supervisor: Supervisor) -> tuple[dict[str, Any], int]:
    """The answer, and how many pictures it is about."""
    body = await read_json(request, BODY)
    images = body.get("images")
    if not isinstance(images, list) or not images or not all(isinstance(one, str) for one in images):
        raise invalid("images", f"images is {images!r:.40}: must be a list of 1 to {MOST} texts in base64.")
    if len(images) > MOST:
        raise Refused(413, "too_large", f"images has {len(images)} pictures: must be at most {MOST}.", "images")
    asked = body.get("reward", request.query_params.get("reward", "clip_score"))
    formula = allowed.formula(asked, "reward")
    prompts = prompts_of(body, len(images))
    try:
        found = await supervisor.work("Nothing was scored", do="score", images=images, prompts=prompts, reward=formula)
    except FairleadError as error:
        raise unavailable("worker_down", without_places(str(error))) from None
    if "error" in found:
        raise _refused(found)
    terms = {without_places(name): numbers for name, numbers in found["terms"].items()}
    return {**found, "terms": terms, "reasons": [without_places(x) for x in found["reasons"]], "reward": asked}, len(
        images
    )


def prompts_of(body: Mapping[str, Any], count: int) -> list[str]:
    """A prompt for each picture, empty where there is none."""
    sent = body.get("prompts")
    listed = [sent] * count if sent is None or isinstance(sent, str) else sent
    if not isinstance(listed, list) or len(listed) != count:
        raise invalid("prompts", f"prompts is {sent!r:.60}: must be one text, or one for each of {count} pictures.")
    return [fields.prompt(one, "prompts") if one else "" for one in listed]


def label(asked: str, allowed: Allowed) -> str:
    """A word for the metrics: a name, not a formula, of which there are endlessly many."""
    return asked if asked in {*allowed.aliases, *allowed.rewards} else "formula"


def _refused(found: Mapping[str, Any]) -> Refused:
    sentence = without_places(found["error"])
    kind = found.get("class")
    if kind in STATUS:
        status, code, param = STATUS[kind]
        return Refused(status, code, sentence, param)
    if kind == "RewardError":
        return unavailable("reward_unavailable", sentence)
    if kind == "bug":
        return Refused(500, "internal", f"The pictures could not be scored ({len(sentence)}).")
    return invalid("reward", sentence)
