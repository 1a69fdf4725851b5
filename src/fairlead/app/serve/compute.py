"""What the worker computes for the server: costs, choices and scores. Called in the worker, between two batches."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fairlead.app.workers.form import read_options
from fairlead.core.errors import FairleadError
from fairlead.run.spec import parse_reward

if TYPE_CHECKING:
    from PIL import Image

    from fairlead.core.reward import Reward

FORMATS = ("PNG", "JPEG", "WEBP")
PICTURE = 16_000_000
REQUEST = 64_000_000
"""Pixels of one picture, and of all pictures of a request."""
_rewards: dict[str, Any] = {}
"""The rewards that were built last, by formula."""
KEPT = 4


class BadImage(FairleadError):
    """A picture of a request that cannot be read."""


class NoPrompt(FairleadError):
    """A reward needs a prompt where there is none."""


def costs(root: Path, message: Mapping[str, Any]) -> dict[str, Any]:
    """Denoiser evaluations of a picture and before the first one, dollars of a picture, warnings about its controls."""
    from fairlead.run import models
    from fairlead.run.price import costs_of

    spec = models.spec_of(read_options(message["options"]))
    plain = replace(spec, steering=(), interventions=())
    found, dollars = costs_of(spec)
    return {
        "each": found.full.nfe,
        "before": found.before.nfe,
        "dollars": dollars if math.isfinite(dollars) else None,
        "warnings": [text for text in models.warnings(spec) if text not in models.warnings(plain)],
    }


def choose(root: Path, message: Mapping[str, Any]) -> dict[str, Any]:
    """The candidates of a run that are good and different, the most wanted first."""
    from fairlead.run import diverse_subset

    keep = message.get("keep", {})
    folder = root / message["folder"]
    _, chosen = diverse_subset.choose(
        folder, message["n"], weight=keep.get("weight", 0.5), likeness=keep.get("likeness")
    )
    return {"indices": [one.index for one in chosen]}


def score(root: Path, message: Mapping[str, Any]) -> dict[str, Any]:
    """Every number of every picture: the same as `fairlead score` on the same files."""
    from fairlead.run import scoring

    tensors = {str(place): found for place, found in enumerate(pictures_of(message["images"]))}
    reward = built(message["reward"])
    if any(leaf.needs_prompt for leaf in reward.leaves()) and "" in message["prompts"]:
        place = message["prompts"].index("")
        raise NoPrompt(f"images[{place}] has no prompt, and {reward.name} needs one. Send prompts.")
    pictures = []
    for place, prompt in enumerate(message["prompts"]):
        pictures.append(scoring.Picture(Path(f"images[{place}]"), prompt, str(place)))
    scores = scoring.score(pictures, reward, read=lambda picture: tensors[picture.label])
    terms: dict[str, list[float | None]] = {}
    for name in dict.fromkeys(name for one in scores for name in one.terms):
        terms[name] = [_number(one.terms.get(name, math.nan)) for one in scores]
    return {
        "scores": [_number(one.reward) for one in scores],
        "terms": terms,
        "reasons": [one.reason for one in scores],
        "unit": reward.unit,
    }


def keep(root: Path, message: Mapping[str, Any]) -> dict[str, Any]:
    """Positions of pictures that are good and different. Without scores, they only have to be different."""
    from fairlead.run import diverse_subset

    tensors = [pixels for pixels, _ in pictures_of(message["images"])]
    worth = None
    if (sent := message["scores"]) is not None:
        worth = [math.nan if one is None else float(one) for one in sent]
    rule = message["keep"]
    likeness = rule.get("likeness", "clip")
    chosen = diverse_subset.among_pictures(tensors, message["n"], worth, rule["weight"], likeness)
    return {"indices": chosen, "likeness": likeness}


def pictures_of(texts: Sequence[str]) -> list[tuple[Any, str]]:
    """Pictures in base64 -> their pixels, and what had to be done to each. Sizes are checked before a pixel is read."""
    images = [opened(text, place) for place, text in enumerate(texts)]
    total = sum(image.width * image.height for image in images)
    if total > REQUEST:
        raise BadImage(f"The pictures have {total} pixels: must be at most {REQUEST} in a request.")
    return [decoded(image, place) for place, image in enumerate(images)]


def opened(text: str, place: int) -> Image.Image:
    """A picture in base64 whose header is in order; no pixel is read yet."""
    from PIL import Image

    if text.startswith("data:"):
        head, comma, text = text.partition(",")
        if not comma or head not in ("data:image/png;base64", "data:image/jpeg;base64", "data:image/webp;base64"):
            raise BadImage(f"images[{place}] begins with {head!r:.40}: must be the base64 of a PNG, JPEG or WebP.")
    try:
        data = base64.b64decode(text, validate=True)
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except (ValueError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise BadImage(f"images[{place}] cannot be read ({_cause(error)}): must be a PNG, JPEG or WebP.") from None
    if image.width * image.height > PICTURE:
        raise BadImage(f"images[{place}] is {image.width}x{image.height}: must have at most {PICTURE} pixels.")
    if getattr(image, "n_frames", 1) != 1:
        raise BadImage(f"images[{place}] has {getattr(image, 'n_frames', 1)} frames: must be a still picture.")
    return image


def decoded(image: Image.Image, place: int) -> Any:
    """The pixels as `fairlead score` reads them."""
    from PIL import Image

    from fairlead.run import scoring

    try:
        return scoring.as_tensor(image)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise BadImage(
            f"images[{place}] cannot be read ({_cause(error)}): must be a whole PNG, JPEG or WebP."
        ) from None


def _cause(error: Exception) -> str:
    """The first line of an error, without the address of an object in memory."""
    return str(error).partition("\n")[0].partition(" <")[0][:80]


def built(formula: str) -> Reward:
    """A reward, built once; the last few are kept."""
    from fairlead.core.reward import HumanReward, early_level
    from fairlead.run.rewards import build_reward, reward_leaf

    if formula not in _rewards:
        found = build_reward(parse_reward(formula), reward_leaf)
        if any(isinstance(leaf, HumanReward) or early_level(leaf) is not None for leaf in found.leaves()):
            raise FairleadError(f"{formula!r:.60} judges runs, not pictures. Name another reward.")
        while len(_rewards) >= KEPT:
            _rewards.pop(next(iter(_rewards)))
        _rewards[formula] = found
    reward: Reward = _rewards[formula]
    return reward


def _number(value: float) -> float | None:
    """A number as JSON can hold it."""
    return value if math.isfinite(value) else None
