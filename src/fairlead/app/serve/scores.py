"""POST /v1/score: pictures and prompts in, every number out. The JSON is that of the `http` reward, and more."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fairlead.app.serve import fields
from fairlead.app.serve.allowed import Allowed
from fairlead.app.serve.errors import Refused, invalid, unavailable, without_places
from fairlead.app.workers.supervisor import Supervisor
from fairlead.core.errors import FairleadError

BODY = 64 << 20
MOST = 64
"""Pictures of a request."""
STATUS = {"BadImage": (422, "bad_image", "images"), "NoPrompt": (422, "no_prompt", "prompts")}


async def answer(body: Mapping[str, Any], allowed: Allowed, supervisor: Supervisor) -> dict[str, Any]:
    """Every number of every picture of a request."""
    images = pictures_of(body)
    asked = body.get("reward", "clip_score")
    formula = allowed.formula(asked, "reward")
    prompts = prompts_of(body, len(images))
    try:
        found = await supervisor.work("Nothing was scored", do="score", images=images, prompts=prompts, reward=formula)
    except FairleadError as error:
        raise unavailable("worker_down", without_places(str(error))) from None
    if "error" in found:
        raise refused(found, "reward")
    terms = {without_places(name): numbers for name, numbers in found["terms"].items()}
    return {**found, "terms": terms, "reasons": [without_places(x) for x in found["reasons"]], "reward": asked}


def pictures_of(body: Mapping[str, Any]) -> list[str]:
    """The pictures of a request in base64, not decoded yet."""
    images = body.get("images")
    if not isinstance(images, list) or not images or not all(isinstance(one, str) for one in images):
        raise invalid("images", f"images is {images!r:.40}: must be a list of 1 to {MOST} texts in base64.")
    if len(images) > MOST:
        raise Refused(413, "too_large", f"images has {len(images)} pictures: must be at most {MOST}.", "images")
    return images


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


def refused(found: Mapping[str, Any], param: str) -> Refused:
    """The refusal of what the worker could not compute about pictures."""
    sentence = without_places(found["error"])
    kind = found.get("class")
    if kind in STATUS:
        status, code, param = STATUS[kind]
        return Refused(status, code, sentence, param)
    if kind == "RewardError":
        return unavailable("reward_unavailable", sentence)
    if kind == "bug":
        return Refused(500, "internal", f"The server could not read these pictures ({len(sentence)}).")
    return invalid(param, sentence)
