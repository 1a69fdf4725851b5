"""Live Python objects in place of what a Spec names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from fairlead.core.errors import FairleadError
from fairlead.core.model import Model
from fairlead.core.reward import Reward
from fairlead.run import models
from fairlead.run.spec import Spec, reward_parts

Siblings = Mapping[str, Model] | None
"""Live models by the name a steering uses for them."""


def check_present(spec: Spec, reward: Reward | None, model: Model | None, folder: Path, what: str) -> None:
    """Refuse to go on without an object that the record only names."""
    if reward is None and any(part.name == "python" for part in reward_parts(spec.reward)):
        raise FairleadError(f"The reward of {folder} was a Python object: {what.format('reward')}.")
    if model is None and spec.model.name == models.LIVE:
        raise FairleadError(f"The model of {folder} was a live pipeline: {what.format('model')}.")
