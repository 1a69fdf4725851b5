"""Noise levels from a diffusers scheduler's configuration, and the way back from a level to the network's timestep.

Only the configuration is read: which scheduler class steps is not used, because fairlead's samplers do the stepping.
eps and v networks were trained on a table of 1000 levels; between them sigma/alpha is interpolated as the scheduler
does, linearly, or in its logarithm for Karras and kindred spacings (Karras et al. 2022; Lin et al. 2024 for spacings).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from fairlead.core.errors import FairleadError
from fairlead.core.model import Level

EULER = (
    "EulerDiscrete",
    "EulerAncestralDiscrete",
    "HeunDiscrete",
    "KDPM2Discrete",
    "KDPM2AncestralDiscrete",
    "LMSDiscrete",
)
DPM = ("DPMSolverMultistep", "DPMSolverSinglestep", "UniPCMultistep", "DEISMultistep", "DPMSolverSDE")
DDIM = ("DDIM", "PNDM", "DDPM")
CONSISTENCY = ("LCM", "TCD")


class Discrete:
    """The levels of an eps or v network. `timesteps`, when given, are used for runs of exactly that many steps."""

    def __init__(self, scheduler: Any, timesteps: Sequence[int] = ()) -> None:
        import diffusers

        name = type(scheduler).__name__.removesuffix("Scheduler")
        config = scheduler.config
        if name not in EULER + DPM + DDIM + CONSISTENCY or config.get("use_flow_sigmas"):
            raise FairleadError(
                f"The scheduler is {name}, whose noise levels fairlead cannot read: "
                "save the pipeline with EulerDiscreteScheduler or DDIMScheduler."
            )
        stand_in = {**dict.fromkeys(EULER, "EulerDiscrete"), **dict.fromkeys(DPM, "DPMSolverMultistep"), "PNDM": "DDIM"}
        self._scheduler = getattr(diffusers, stand_in.get(name, name) + "Scheduler").from_config(config)
        self.kind = name
        self.prediction = str(config.get("prediction_type", "epsilon"))
        abar = self._scheduler.alphas_cumprod.double().numpy()
        self._table = np.minimum(np.sqrt((1 - abar) / np.maximum(abar, 1e-12)), 1e6)
        curved = any(
            config.get(f"use_{k}") for k in ("karras_sigmas", "exponential_sigmas", "beta_sigmas", "lu_lambdas")
        )
        self._log = bool(curved)
        self._round = bool(curved and name in DPM)
        self._timesteps = [int(t) for t in timesteps]

    def levels(self, steps: int) -> list[Level]:
        """`steps` + 1 levels; unit noise at the first is the pipeline's initial latent, the last is where it stops.

        Two departures, where the scheduler's own answer is of no use: one step starts at the noisiest level (linspace
        and leading spacing would start next to none), and more steps than the scheduler can space apart, half the table
        or what a consistency model was distilled for, are spread evenly over the table.
        """
        size = len(self._table)
        config = self._scheduler.config
        if steps > size:
            raise FairleadError(f"steps is {steps}: must be at most {size}, the number of this model's noise levels.")
        own = self._timesteps if len(self._timesteps) == steps else []
        crowded = steps > (config.original_inference_steps if self.kind in CONSISTENCY else size // 2)
        if steps == 1 and self.kind not in CONSISTENCY and config.timestep_spacing != "trailing" and not own:
            own = [size - 1]
        elif crowded and not own:
            own = [round(i * (size - 1) / (steps - 1)) for i in reversed(range(steps))]
        if own:
            return [_preserving(self._table[t]) for t in own] + [Level(1.0, 0.0)]
        self._scheduler.set_timesteps(steps)
        if self.kind in EULER + DPM:
            ratios = [float(s) for s in self._scheduler.sigmas]
            out = [_preserving(s) for s in ratios]
            if self.kind in EULER:
                start = float(self._scheduler.init_noise_sigma)
                out[0], out[-1] = Level(1 / start, ratios[0] / start), Level(1.0, ratios[-1])
            return out
        out = [_preserving(self._table[int(t)]) for t in self._scheduler.timesteps]
        clean = self.kind not in ("DDIM", "PNDM") or config.set_alpha_to_one
        return [*out, Level(1.0, 0.0) if clean else _preserving(self._table[0])]

    def timestep(self, at: Level) -> float:
        """The network's time of a level, fractional between two entries of the table; any common scale of the pair."""
        ratio = min(at.sigma / max(at.alpha, 1e-12), 1e6)
        index = np.arange(len(self._table))
        if self._log:
            t = float(np.interp(math.log(max(ratio, 1e-12)), np.log(self._table), index))
            return float(round(t)) if self._round else t
        return float(np.interp(ratio, self._table, index))


def _preserving(ratio: float) -> Level:
    """Sigma/alpha -> the pair with alpha^2 + sigma^2 = 1."""
    ratio = float(ratio)
    scale = math.hypot(1.0, ratio)
    return Level(1 / scale, ratio / scale)


def flow(
    scheduler: Any,
    steps: int,
    *,
    tokens: int | None = None,
    sigmas: Iterable[float] | None = None,
    mu: float | None = None,
) -> list[Level]:
    """The levels (1 - s, s) of a rectified-flow scheduler; `tokens` is the picture's length in patches for the shift.

    The shift grows linearly with the length between the two lengths in the configuration (Esser et al. 2024, 5.3.2).
    """
    if scheduler.config.get("use_flow_sigmas") and scheduler.config.get("prediction_type") == "flow_prediction":
        copy = type(scheduler).from_config(scheduler.config)
        copy.set_timesteps(steps)
        return [Level(1.0 - s, s) for s in copy.sigmas.tolist()]
    if not hasattr(scheduler.config, "shift"):
        name = type(scheduler).__name__
        raise FairleadError(
            f"The scheduler is {name}, and this family needs rectified-flow levels: save the pipeline with "
            "FlowMatchEulerDiscreteScheduler."
        )
    copy = type(scheduler).from_config(scheduler.config)
    config = scheduler.config
    extra: dict[str, Any] = {}
    if config.get("use_dynamic_shifting") and mu is not None:
        extra["mu"] = mu
    elif config.get("use_dynamic_shifting") and tokens is not None:
        low = config.get("base_image_seq_len", 256)
        high = config.get("max_image_seq_len", 4096)
        base = config.get("base_shift", 0.5)
        top = config.get("max_shift", 1.15)
        extra["mu"] = base + (top - base) * (tokens - low) / (high - low)
    if sigmas is None:
        copy.set_timesteps(steps, **extra)
    else:
        copy.set_timesteps(sigmas=np.fromiter(sigmas, float), **extra)
    return [Level(1.0 - s, s) for s in copy.sigmas.tolist()]
