"""Which sampler stands for a diffusers scheduler, and where it only comes near. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SCHEDULERS = {
    "DDIMScheduler": ("euler", True),
    "EulerDiscreteScheduler": ("euler", True),
    "EulerAncestralDiscreteScheduler": ("ancestral", True),
    "DDPMScheduler": ("ancestral", True),
    "DPMSolverMultistepScheduler": ("dpmpp_2m", True),
    "HeunDiscreteScheduler": ("heun", False),
    "LCMScheduler": ("consistency", True),
    "FlowMatchEulerDiscreteScheduler": ("euler", True),
    "FlowMatchHeunDiscreteScheduler": ("heun", True),
    "TCDScheduler": ("consistency", False),
    "PNDMScheduler": ("euler", False),
    "UniPCMultistepScheduler": ("dpmpp_2m", False),
    "DEISMultistepScheduler": ("dpmpp_2m", False),
    "DPMSolverSinglestepScheduler": ("dpmpp_2m", False),
    "DPMSolverSDEScheduler": ("ancestral", False),
    "KDPM2DiscreteScheduler": ("heun", False),
    "KDPM2AncestralDiscreteScheduler": ("ancestral", False),
    "LMSDiscreteScheduler": ("dpmpp_2m", False),
}
"""Scheduler class -> its sampler, and True for a twin: the sampler steps as the class does with `USUAL` settings."""

USUAL = {
    "algorithm_type": "dpmsolver++",
    "solver_order": 2,
    "solver_type": "midpoint",
    "clip_sample": False,
    "thresholding": False,
}
"""Settings of a scheduler with which its twin steps as it does."""


def sampler_of(scheduler: str) -> str:
    """The sampler that steps as a scheduler class does, or nearest to it."""
    return SCHEDULERS.get(scheduler, ("euler", False))[0]


def no_twin(scheduler: str, config: Mapping[str, Any]) -> str:
    """Why `sampler_of` a scheduler takes other steps than it; empty for a twin."""
    if not SCHEDULERS.get(scheduler, ("euler", False))[1]:
        return f"{scheduler} has no twin"
    for setting, usual in USUAL.items():
        if config.get(setting, usual) != usual:
            return f"{scheduler} with {setting}={config[setting]!r} has no twin"
    return ""
