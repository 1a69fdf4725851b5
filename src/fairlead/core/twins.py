"""Which sampler takes the steps of a diffusers scheduler, exactly or nearly. Imports no torch."""

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
    "FlowMatchLCMScheduler": ("consistency", False),
    "SCMScheduler": ("consistency", True),
    "TCDScheduler": ("euler", False),
    "PNDMScheduler": ("euler", False),
    "UniPCMultistepScheduler": ("dpmpp_2m", False),
    "DEISMultistepScheduler": ("dpmpp_2m", False),
    "DPMSolverSinglestepScheduler": ("dpmpp_2m", False),
    "DPMSolverSDEScheduler": ("ancestral", False),
    "KDPM2DiscreteScheduler": ("heun", False),
    "KDPM2AncestralDiscreteScheduler": ("ancestral", False),
    "LMSDiscreteScheduler": ("dpmpp_2m", False),
}
"""Scheduler class -> the nearest sampler, and True for a twin: it steps as the class does with `USUAL` settings."""

USUAL: dict[str, tuple[Any, ...]] = {
    "algorithm_type": ("dpmsolver++",),
    "solver_order": (2,),
    "solver_type": ("midpoint",),
    "euler_at_final": (False,),
    "final_sigmas_type": ("zero",),
    "clip_sample": (False,),
    "thresholding": (False,),
    "stochastic_sampling": (False,),
    "variance_type": ("fixed_small", None),
}
"""Settings of a scheduler with which its twin steps as it does."""


def sampler_of(scheduler: str, config: Mapping[str, Any]) -> str:
    """The sampler of a run that names none: the twin, the scheduler itself, or else the nearest one."""
    if no_twin(scheduler, config) and steps_itself(scheduler, config):
        return "scheduler"
    return nearest_to(scheduler)


def nearest_to(scheduler: str) -> str:
    """The sampler that steps as a scheduler class does, or nearest to it."""
    return SCHEDULERS.get(scheduler, ("euler", False))[0]


def no_twin(scheduler: str, config: Mapping[str, Any]) -> str:
    """Why `nearest_to` a scheduler takes other steps than it; empty for a twin."""
    if not SCHEDULERS.get(scheduler, ("euler", False))[1]:
        return f"{scheduler} has no twin"
    for setting, usual in USUAL.items():
        if config.get(setting, usual[0]) not in usual:
            return f"{scheduler} with {setting}={config[setting]!r} has no twin"
    return ""


def steps_itself(scheduler: str, config: Mapping[str, Any]) -> bool:
    """True if the scheduler object can take the steps of a run, with its memory cut by sample.

    One that draws from a Brownian tree of its own cannot, nor can PNDM with its Runge-Kutta start. SCM has a twin in
    every setting and a state of its own kind.
    """
    if scheduler == "PNDMScheduler":
        return bool(config.get("skip_prk_steps"))
    return scheduler in SCHEDULERS and scheduler not in ("DPMSolverSDEScheduler", "SCMScheduler")
