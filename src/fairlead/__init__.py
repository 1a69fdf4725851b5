"""Inference-time control of text-to-image diffusion models: search, steering and intervention at a budget."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fairlead.api import resume as resume
    from fairlead.api import run as run
    from fairlead.app.result import Result as Result
    from fairlead.core.errors import FairleadError as FairleadError
    from fairlead.core.reward import Reward as Reward
    from fairlead.rewards.aesthetic import Aesthetic as Aesthetic
    from fairlead.rewards.brightness import Brightness as Brightness
    from fairlead.rewards.clip_score import ClipScore as ClipScore
    from fairlead.rewards.jpeg_size import JpegSize as JpegSize

_WHERE = {
    "run": "fairlead.api",
    "resume": "fairlead.api",
    "Result": "fairlead.app.result",
    "FairleadError": "fairlead.core.errors",
    "Reward": "fairlead.core.reward",
    "Aesthetic": "fairlead.rewards.aesthetic",
    "Brightness": "fairlead.rewards.brightness",
    "ClipScore": "fairlead.rewards.clip_score",
    "JpegSize": "fairlead.rewards.jpeg_size",
}
__all__ = ["Aesthetic", "Brightness", "ClipScore", "FairleadError", "JpegSize", "Result", "Reward", "resume", "run"]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'fairlead' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
