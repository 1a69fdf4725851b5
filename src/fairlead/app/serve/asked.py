"""A request for pictures -> a checked description of it. Reads words only; prices and models come later."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fairlead.app.serve import fields
from fairlead.app.serve.allowed import PARTS, Allowed
from fairlead.app.serve.errors import Refused, invalid, of_sentence
from fairlead.app.serve.models import Served
from fairlead.core.errors import FairleadError
from fairlead.run.spec import parse_budget

MOST_PICTURES = 10
QUALITIES = {"low": 4, "medium": 16, "high": 64, "xhigh": 256, "max": 1024}
"""Candidates of each quality."""
SAME_QUALITY = {"auto": "medium", "standard": "medium", "hd": "high"}
FORMATS = ("png", "webp", "jpeg")
IGNORED = ("moderation", "style", "complexity")
"""Fields of OpenAI that change nothing here."""
REFUSED = ("svg", "frame_count", "frame_duration_ms")
TOP = {
    *("prompt", "model", "n", "size", "quality", "stream", "partial_images", "output_format", "output_compression"),
    *("background", "response_format", "user", "safety_identifier", "seed", "negative_prompt", "num_inference_steps"),
    *("guidance_scale", "true_cfg_scale", "fairlead", *IGNORED, *REFUSED),
}
OF_A_RUN = ("space", "search", "sampler", "steps", "group", "draft", "finals", "settings")
"""Keys of `fairlead` that are passed on as they are."""
OWN = {"reward", "watch", "steer", "intervene", "budget", "seed", "keep", "events", *OF_A_RUN}


@dataclass(frozen=True)
class Asked:
    """A request for pictures whose words are in order."""

    served: Served
    words: Mapping[str, Any]
    """Options of a run by their names in Python, without the budget and the seed."""
    reward: str
    """The reward as the request names it."""
    n: int
    quality: str
    """A resolved word."""
    budget: Mapping[str, float] | None
    """The limits that the request names; None: those of its quality."""
    seed: int | str | None
    """A number, `fresh`, or None where the request names none."""
    stream: bool = False
    partial_images: int = 0
    format: str = "png"
    compression: int = 100
    keep: Mapping[str, Any] = field(default_factory=dict)
    """`weight` and `likeness` of the choice of n pictures."""
    events: bool = False
    safety_identifier: str | None = None
    warnings: tuple[str, ...] = ()
    arrived: float = field(default_factory=time.monotonic)

    def uses_alias(self, aliases: Mapping[str, str]) -> bool:
        """True if a formula of the run has a piece that the operator wrote."""
        texts = [self.words["reward"], *self.words.get("watch", ())]
        return any(formula in text for formula in aliases.values() for text in texts)


def read(body: dict[str, Any], served: Mapping[str, Served], allowed: Allowed) -> Asked:
    """The request of a body, or a refusal that names the field."""
    own = body.get("fairlead")
    if own is None:
        own = {}
    if not isinstance(own, dict):
        raise invalid("fairlead", f"fairlead is {own!r:.60}: must be an object.")
    fields.known_keys(own, OWN, "fairlead")
    model = _model(body.get("model"), served)
    reward = own.get("reward", "clip_score")
    stream = fields.truth("stream", body.get("stream"))
    partial = fields.whole("partial_images", body.get("partial_images"), 0, 3, 0)
    if partial and not stream:
        raise invalid("partial_images", f"partial_images is {partial}: needs stream=true.")
    quality = fields.word("quality", body.get("quality"), {*QUALITIES, *SAME_QUALITY}, "auto")
    format, compression = _format(body)
    return Asked(
        served=model,
        words=_words(body, own, model, allowed),
        reward=reward.strip(),
        n=fields.whole("n", body.get("n"), 1, MOST_PICTURES, 1),
        quality=SAME_QUALITY.get(quality, quality),
        budget=_budget(own.get("budget")),
        seed=_seed(body, own),
        stream=stream,
        partial_images=partial,
        format=format,
        compression=compression,
        keep=_keep(own.get("keep")),
        events=fields.truth("fairlead.events", own.get("events")),
        safety_identifier=_identifier(body),
        warnings=tuple(_warnings(body)),
    )


def _model(value: Any, served: Mapping[str, Served]) -> Served:
    if value is None:
        return next(iter(served.values()))
    if not isinstance(value, str) or value not in served:
        message = f"The model {value!r:.60} is not served here. Served models: {', '.join(served)}."
        raise Refused(404, "model_not_found", message, "model")
    return served[value]


def _words(body: dict[str, Any], own: dict[str, Any], served: Served, allowed: Allowed) -> dict[str, Any]:
    """The options of the run."""
    words: dict[str, Any] = {"prompt": fields.prompt(body.get("prompt")), "model": served.model}
    words["reward"] = allowed.formula(own.get("reward", "clip_score"), "fairlead.reward")
    words["watch"] = [allowed.formula(one, "fairlead.watch") for one in _list(own, "watch")]
    for name in ("steer", "intervene"):
        words[name] = _list(own, name)
    for name in OF_A_RUN:
        if own.get(name) is not None:
            words[name] = own[name]
    if "draft" in words:
        allowed.check_draft(words["draft"])
        words["draft"] = str(words["draft"])
    settings = words.pop("settings", {})
    allowed.check_settings(settings, served.model)
    words["settings"] = as_items(settings)
    if (steps := body.get("num_inference_steps")) is not None:
        words["steps"] = fields.whole("num_inference_steps", steps, 1, 200, 1)
    for name in ("guidance_scale", "true_cfg_scale"):
        if body.get(name) is not None:
            words[name] = fields.number(name, body[name], 0, 20, 0)
    if body.get("negative_prompt"):
        words["negative_prompt"] = fields.prompt(body["negative_prompt"], "negative_prompt")
    if (size := fields.size(body.get("size"), served.size)) is not None:
        words |= {"width": size[0], "height": size[1]}
    return {name: value for name, value in words.items() if value not in (None, [], "")}


def as_items(settings: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Settings as `part.setting=value`, which a job stores."""
    return sorted(f"{part}.{name}={value!r}" for part, own in settings.items() for name, value in own.items())


def _list(own: dict[str, Any], name: str) -> list[str]:
    value = own.get(name)
    found = [value] if isinstance(value, str) else value or []
    if not isinstance(found, list) or len(found) > PARTS or not all(isinstance(one, str) for one in found):
        raise invalid(f"fairlead.{name}", f"{name} is {value!r:.60}: must be a list of at most {PARTS} texts.")
    return found


def _budget(value: Any) -> dict[str, float] | None:
    if value is None:
        return None
    if isinstance(value, dict):
        value = ",".join(f"{name}={number}" for name, number in value.items())
    if not isinstance(value, str) or len(value) > 200:
        raise invalid("fairlead.budget", f"budget is {value!r:.60}: must be like 'nfe=640'.")
    try:
        return parse_budget(value)
    except FairleadError as error:
        raise of_sentence(error, "fairlead.budget") from None


def _seed(body: dict[str, Any], own: dict[str, Any]) -> int | str | None:
    for param, value in (("fairlead.seed", own.get("seed")), ("seed", body.get("seed"))):
        if value == "fresh":
            return "fresh"
        if value is not None:
            return fields.whole(param, value, -(2**63), 2**63 - 1, 0)
    return None


def _format(body: dict[str, Any]) -> tuple[str, int]:
    format = fields.word("output_format", body.get("output_format"), FORMATS, "png")
    compression = fields.whole("output_compression", body.get("output_compression"), 0, 100, 100)
    if format == "png" and compression != 100:
        raise invalid("output_compression", f"output_compression is {compression}: png has no quality. Leave it out.")
    background = fields.word("background", body.get("background"), ("transparent", "opaque", "auto"), "auto")
    if background == "transparent":
        raise invalid("background", f"background is {background!r}: pictures are opaque.")
    answer = fields.word("response_format", body.get("response_format"), ("url", "b64_json"), "b64_json")
    if answer == "url":
        raise invalid("response_format", f"response_format is {answer!r}: this server has no public address.")
    for name in REFUSED:
        if body.get(name) is not None:
            raise invalid(name, f"{name} is {body[name]!r:.40}: only still pictures are made.")
    return format, compression


def _keep(value: Any) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise invalid("fairlead.keep", f"keep is {value!r:.60}: must be an object with weight and likeness.")
    fields.known_keys(value, ("weight", "likeness"), "fairlead.keep")
    found: dict[str, Any] = {"weight": fields.number("fairlead.keep.weight", value.get("weight"), 0, 1e6, 0.5)}
    if value.get("likeness") is not None:
        found["likeness"] = fields.word("fairlead.keep.likeness", value["likeness"], ("clip", "pixels"), "clip")
    return found


def _identifier(body: dict[str, Any]) -> str | None:
    for name in ("safety_identifier", "user"):
        value = body.get(name)
        if value is not None and (not isinstance(value, str) or len(value) > 512):
            raise invalid(name, f"{name} is {value!r:.40}: must be a text of at most 512 characters.")
        if value:
            return value.encode(errors="replace").decode()
    return None


def _warnings(body: dict[str, Any]) -> list[str]:
    """What was sent and changes nothing."""
    names = [name for name in body if name not in TOP or (name in IGNORED and body[name] is not None)]
    return [f"{name!a:.60} is ignored." for name in names[:20]]


def numbered_seed(asked: Asked, tenant: str, key: str | None, fresh: str | None) -> int:
    """The seed of the run: as asked, or from the idempotency key, or from `fresh`, or 0."""
    if isinstance(asked.seed, int):
        return asked.seed
    text = fresh if asked.seed == "fresh" else key
    if text is None:
        text = fresh
    if text is None:
        return 0
    return int.from_bytes(hashlib.sha256(json.dumps([tenant, text]).encode()).digest()[:8]) >> 1
